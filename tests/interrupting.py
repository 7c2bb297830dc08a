"""Reports of progress that interrupt the work that makes them."""


def until(left):
    """A report that interrupts when it is called for the so many-th time."""

    def report(progress):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    return report
