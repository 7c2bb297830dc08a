"""SAM and its variants; `jaxsharp.optimizers` lists their public names.

ascent         inner maximizers: perturbations of bounded size that raise the loss
rule           a rule for where the gradient is taken, as a wrapper of any optimizer
sam            SAM, ASAM, several ascent steps
groups         m-SAM: gradients of groups of examples
gsam           surrogate gap
looksam        SAM every few steps, its direction reused in between
friendly_sam   ascent along the gradient less its moving average
momentum_sam   ascent against the momentum
"""
