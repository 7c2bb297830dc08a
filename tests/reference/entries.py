"""What the stored trajectories are of: optimizers, their hyper-parameters, the rates per problem.

Chosen so that no error at the start grows more than twentyfold in 1000 steps. Twice as large a
`rho` turns some of the sharpness-aware trajectories chaotic at the floor of a steep direction.
"""

STEPS = (1, 2, 5, 10, 11, 20, 100, 1000)

RATES = {
    "quadratic": {"sgd": 0.02, "heavy_ball": 0.005, "adagrad": 0.01, "adam": 0.001},
    "rosenbrock": {"sgd": 2e-4, "heavy_ball": 5e-5, "adagrad": 0.01, "adam": 0.001},
    "network": {"sgd": 0.1, "heavy_ball": 0.02, "adagrad": 0.01, "adam": 0.001},
}
for rates in RATES.values():
    rates.update(adashift=rates["adam"], adabound=rates["adam"], amsbound=rates["adam"])

# AdaBound ends as SGD of this rate.
FINAL_RATES = {"quadratic": 0.02, "rosenbrock": 2e-4, "network": 0.1}
RHO = {"quadratic": 0.02, "rosenbrock": 0.006, "network": 0.03}

# Name of an entry: our factory, its hyper-parameters other than the rates.
BASES = {
    "sgd": ("sgd", {}),
    "heavy_ball": ("heavy_ball", {"momentum": 0.8}),
    "heavy_ball_decay": ("heavy_ball", {"momentum": 0.8, "weight_decay": 0.1}),
    "adagrad": ("adagrad", {"eps": 1e-10}),
    "adam": ("adam", {"b1": 0.9, "b2": 0.999, "eps": 1e-8}),
    "adam_decay": ("adam", {"weight_decay": 0.1}),
    "adamw": ("adam", {"decoupled_weight_decay": 0.1}),
    "adabound": ("adabound", {"gamma": 1e-3, "eps": 1e-8}),
    "amsbound": ("amsbound", {"gamma": 1e-3, "eps": 1e-8}),
    "adashift": ("adashift", {"window": 10, "eps": 1e-10}),
}

# Each over heavy_ball, on the network over adam too; m_sam on the network alone: it needs examples.
SHARP = {
    "sam": ("sam", {}),
    "asam": ("asam", {"eta": 0.01}),
    "asam_everywhere": ("asam", {"eta": 1e-30, "adaptive": None}),
    "multi_step_sam": ("multi_step_sam", {"num_steps": 3}),
    "m_sam": ("m_sam", {"m": 3}),
    "gsam": ("gsam", {"alpha": 0.4}),
    "look_sam": ("look_sam", {"every": 5, "alpha": 0.7}),
    "friendly_sam": ("friendly_sam", {"sigma": 0.7, "decay": 0.9}),
    "momentum_sam": ("momentum_sam", {"decay": 0.8}),
}
SHARP_BASES = {
    "quadratic": ("heavy_ball",),
    "rosenbrock": ("heavy_ball",),
    "network": ("heavy_ball", "adam"),
}


def rates_of(base, problem):
    """The learning rates of a base optimizer on a problem, under our names."""
    factory, _ = BASES[base]
    rates = {"learning_rate": RATES[problem][factory]}
    return rates | ({"final_lr": FINAL_RATES[problem]} if "bound" in factory else {})


def entries():
    """All (sharp, base, problem), sharp None for the base alone."""
    for problem in RATES:
        yield from ((None, base, problem) for base in BASES)
        for sharp in SHARP:
            if sharp != "m_sam" or problem == "network":
                yield from ((sharp, base, problem) for base in SHARP_BASES[problem])


def key(sharp, base, problem):
    return f"{problem}/{base}" if sharp is None else f"{problem}/{sharp}/{base}"
