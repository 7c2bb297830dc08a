"""Wrong inputs over all commands, some hundred: what a user mistypes, overdoes or leaves out."""

COUNT = ("", "many", "2.5", "1e3", "-1", "0", "nan", "1000000000000", "100000000000000000000")
POSITIVE = ("", "fast", "nan", "inf", "-0.5", "0", "1e999", "0.1.2")
AT_LEAST_0 = ("", "x", "nan", "inf", "-0.1", "1e999")
NAMES = ("", ",", "bogus", "SGD", "sgd;adam", " ", "None", "../../x", "[b]sgd[/b]")
SETTINGS = {
    "--epochs": COUNT,
    "--batch-size": COUNT,
    "--last-batch": (*NAMES, "Keep"),
    "--patience": COUNT,
    "--train-size": COUNT,
    "--measure-size": COUNT,
    "--track": (*(n for n in NAMES if n != "None"), "top_eigenvalu", "sgd"),
    "--track-every": COUNT,
    "--track-size": COUNT,
    "--holdout": tuple(value for value in COUNT if value != "0"),
    "--learning-rate": POSITIVE,
    "--momentum": (*AT_LEAST_0, "1", "1.5"),
    "--weight-decay": AT_LEAST_0,
    "--rho": AT_LEAST_0,
    "--loss-below": POSITIVE,
    "--change-below": POSITIVE,
    "--label-noise": (*AT_LEAST_0, "1.01"),
    "--decoupled-weight-decay": AT_LEAST_0,
    "--loss": tuple(name for name in NAMES if name != "None"),
    "--schedule": NAMES,
    "--warmup-epochs": tuple(value for value in COUNT if value != "0"),
    "--compute": (*NAMES, "float16", "bf16"),
    "--augment": (*NAMES, "crop_", "crop flip"),
    "--clip-norm": POSITIVE,
    "--label-smoothing": (*AT_LEAST_0, "1"),
    "--mixup": AT_LEAST_0,
    "--average": (*NAMES, "EMA"),
    "--average-decay": (*AT_LEAST_0, "1"),
    "--save-losses": ("", "x", "0", "-1", "nan", "inf", "1,1.0", "1,", "1 0.3"),
    "--average-after": tuple(value for value in COUNT if value != "0"),
}
MEASURING = {
    "--measure-rtol": (*POSITIVE, "1"),
    "--eigenvalue-tol": POSITIVE,
    "--radius": POSITIVE,
    "--num-perturbations": COUNT,
    "--sigma": POSITIVE,
    "--ascent-steps": COUNT,
    "--delta": (*POSITIVE, "1"),
    "--measures": NAMES,
}
DATA = {
    "--dataset": (
        *(*NAMES, "no.npz", "no.csv", "no.parquet", "no.txt", ".", "empty", "no/such/folder"),
        *("images", "images/train", "hf:", "hf:a b", "hf:no/such", "hf:no/such#", "hf:empty"),
        *("hf:images", "tfds:", "tfds:../x", "tfds:no_such", "tfds:no_such/x#y", "csv:mine"),
        *("digits,digit", "digits,images", "arrays"),
    ),
    "--model": (
        *(n for n in NAMES if n != "None"),
        "no.py:make",
        "a_file:make",
        "a_file.py",
        "small_mlp,lenett",
    ),
    "--data-dir": ("", "no/such/folder", "a_file", "~nobody_of_this_name/x"),
}
STUDY = {
    **SETTINGS,
    **MEASURING,
    **DATA,
    "--optimizers": NAMES,
    "--figures": (*NAMES, "jpg", "png,eps", "PNG"),
    "--sam": tuple(name for name in NAMES if name != "None"),
    "--seeds": COUNT,
    "--save-every": COUNT,
    "--devices-per-member": COUNT,
    "--width": (*COUNT, "wide", "-auto"),
    "--shard": ("", "1", "0/2", "3/2", "a/b", "1/0", "-1/2", "1/1000000000000", "1/2/3"),
    "--vary": (
        *("", "learning_rate", "learning_rate=", "learning_rate=a", "bogus=1", "=1", "seed=1"),
        *("learning_rate=nan", "learning_rate=-1", "batch_size=1.5"),
        *("batch_size=0", "batch_size=1000000000000", "epochs=3", "momentum=1", "rho=-1"),
        *("average=", "average=mean", "average=ema,0.9", "average=0"),
    ),
    "--out": ("", "a_file", "a_file/below", "~nobody_of_this_name/x", "\0", "x" * 300),
    "--coordinator": ("node", "node:99999", "node:x", "node:", ":1", "auto "),
    "--num-processes": ("1", "x"),
    "--process-id": ("0", "-1"),
    "--fresh": ("maybe",),
}
TRAIN = {
    **SETTINGS,
    **DATA,
    "--optimizer": NAMES,
    "--sam": tuple(name for name in NAMES if name != "None"),
    "--seed": ("", "x", "-1", "1.5", "4294967296", "100000000000000000000"),
    "--save-every": COUNT,
    "--out": ("", "a_file", "a_file/below", "~nobody_of_this_name/x"),
}
EPOCHS = ("", "0", "-1", "1.5", "x", "7", "final,final", "all,1", "1,,final", "1000000000000")
FOLDERS = ("", "no/such/folder", "a_file", "empty", "~nobody_of_this_name/x", "\0", "x" * 300)
INSIDE = ("a_run/new", "a_run/checkpoints/new", "a_study/new", "a_study/runs/new")
OTHERS = [
    *(["sharpness", "a_run", option, value] for option, vs in MEASURING.items() for value in vs),
    *(["sharpness", folder] for folder in (*FOLDERS, "a_study") if folder),
    *(["sharpness", "a_run", "--epochs", epochs] for epochs in EPOCHS),
    *(["sharpness", "a_run", "--out", out] for out in ("", "t", "t.txt", "a_run/t.csv")),
    *(["status", folder] for folder in FOLDERS if folder),
    *(["plot", folder] for folder in FOLDERS if folder),
    *([command, "--out", out] for command in ("study", "train") for out in INSIDE),
    *(["plot", "a_run", "--out", f"{out}.png"] for out in INSIDE),
    *(["merge", folder, "--out", "merged"] for folder in FOLDERS),
    *(["plot", "a_run", "--out", out] for out in ("", "figure", "figure.doc", "no/such/f.png")),
    *([command] for command in ("sharpness", "status", "plot", "merge", "", "trian", "-x", "..")),
    *(["merge", "--out", "merged"], ["merge", "a_run"], ["merge", "a_run", "--out", "a_run"]),
    *(["merge", "a_run", "a_run", "--out", "merged"], ["list", "digits"]),
    *(["status", "a_run", "empty"], ["plot", "a_run", "empty"], ["plot", "a_study"]),
    *(["sharpness", "a_run", "empty"], ["status", "empty", "empty"]),
]
COMMANDS = ("study", "train", "sharpness", "status", "plot", "merge", "submit", "list")
TOGETHER = [
    "sharpness --params no.npz",
    "sharpness --params no.npz --model small_mlp --dataset digits",
    "sharpness --params a_file --model small_mlp --dataset digits",
    "sharpness --params empty --model small_mlp --dataset digits",
    "sharpness --params a_run --model small_mlp --dataset digits",
    "sharpness a_run --params a_file",
    "sharpness a_run --model lenet",
    "sharpness --params a_file --model small_mlp --dataset digits --epochs all",
    "sharpness a_run --dataset no.npz",
    "study --loss squared_error",
    "study --label-smoothing 0.1 --loss binary_cross_entropy",
    "study --average ema --vary average=none,swa",
    "study --average swa --average-after 5 --epochs 5",
    "study --average-after 5",
    "study --average-decay 0.9",
    "study --track batch_sharpness --track-size 8 --batch-size 16",
    "study --track hessian_trace,no_measure",
    "train --average-decay 0.9",
    "train --average-after 1 --epochs 2",
    "study --warmup-epochs 5 --epochs 5",
    "study --learning-rate 0.1 --vary learning_rate=0.1,0.01",
    "study --sam none --rho 0.1",
    "study --sam none --vary rho=0.1,0.2",
    "study --patience 300 --epochs 10 --change-below 0.1",
    "study --num-processes 2 --process-id 0",
    "study --coordinator localhost:1234",
    "study --coordinator node --num-processes 2 --process-id 1",
    "study --coordinator node:99999 --num-processes 2 --process-id 1",
    "study --coordinator node: --num-processes 2 --process-id 1",
    "study --coordinator host.invalid:1234 --num-processes 2 --process-id 1",
    "study --coordinator localhost:1234 --num-processes 2 --process-id 2",
    "study --dataset digits --data-dir empty",
    "study --batch-size 100 --sam m_sam",
    "study --holdout 1437",
    "study --vary learning_rate=0.1 learning_rate=0.2",
    "study --shard 2/3 --optimizers sgd --sam none --seeds 1",
    "study --model lenet",
    "study --out a_study --epochs 100",
    "study --out a_study --epochs 300 --batch-size 64",
    "submit",
    "submit --shards 0 -- --seeds 2",
    "submit --shards 2 --time soon -- --seeds 2",
    "submit --shards 2 --sbatch array=1-4 -- --seeds 2",
    "submit --shards 2 -- --optimizers bogus",
    "submit --shards 2 -- --shard 1/2",
    "submit --shards 2 --out a_run/new -- --seeds 2",
    "submit --shards 2 --out a_study -- --seeds 2",
    "submit --shards 1000 --local -- --seeds 2",
    "train --rho 0.1",
    "train --dataset mnist --data-dir empty",
    "train --model lenet",
    "train --patience 300 --epochs 10 --change-below 0.1",
    "train sgd",
    "train --optimizer sgd adam",
]


def wrong_inputs() -> list[list[str]]:
    """Command lines, none of which may be accepted."""
    single = [
        *(["study", option, value] for option, values in STUDY.items() for value in values),
        *(["train", option, value] for option, values in TRAIN.items() for value in values),
    ]
    unknown = [[command, "--no-such-option"] for command in COMMANDS]
    missing = [["study", option] for option in STUDY if option not in ("--vary", "--fresh")]
    missing += [["train", option] for option in TRAIN]
    return [*single, *OTHERS, *unknown, *missing, *(line.split() for line in TOGETHER)]
