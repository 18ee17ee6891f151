"""Train the network in all its precisions and export each as soon as it is ready.

    python examples/fashion_mnist/train.py --seeds 0 1 2 --output DIR

The float32 network of a seed is trained first. FP16 and FP8 are converted from it without training;
each integer network starts from it and is fine-tuned as `network.py` quantises, its loss half
cross-entropy, half distillation from the float32 network. The test set is only used for the
accuracy that is reported, which `evaluate.py` computes from the exported files.
"""

import argparse
import sys
import time
from pathlib import Path

from dataset import DEFAULT_FOLDER, DatasetMissingError, load_split, save_sample

try:
    import torch
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
except ImportError as missing:
    sys.exit(f"{missing.name} is not installed: training needs `pip install ulpcore[train]`.")

import export
import record
from evaluate import load
from network import (
    FLOAT32,
    PRECISIONS,
    FashionNetwork,
    Pact,
    Precision,
    fit_activations,
    measure_largest,
)
from torch import Tensor, nn
from torch.nn import functional

BATCH = 128
CALIBRATION = 2048
EPOCHS = {"float32": 12, "fp16": 0, "fp8": 0, "int8": 2, "int4": 4, "int2": 4, "odd2": 4,
          "ternary": 4, "binary": 4}
PEAK_RATE = {"float32": 6e-3, "int8": 5e-4, "int4": 1.5e-3, "int2": 2.5e-3, "odd2": 2.5e-3,
             "ternary": 2.5e-3, "binary": 2.5e-3}
# Two bits and one leave too little capacity to spend on images that the test set does not hold.
AUGMENTED = {"float32", "int8", "int4"}
WEIGHT_DECAY = 1e-2
ALPHA_DECAY = 1e-3
TEMPERATURE = 3.0
SHIFT = 1
CHANNELS_LAST = torch.channels_last


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift uint8 images (count, 28, 28) by up to `SHIFT` pixels and mirror half of them."""
    count, size = len(images), images.shape[-1]
    padded = functional.pad(images, (SHIFT,) * 4)
    dy, dx = torch.randint(0, 2 * SHIFT + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    line = torch.arange(size)
    rows, columns = line + dy, torch.where(mirrored, line.flip(0), line) + dx
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def as_input(images: Tensor) -> Tensor:
    """Real values code / 255 as (count, 1, 28, 28)."""
    return (images.float() / 255).unsqueeze(1).to(memory_format=CHANNELS_LAST)


def loss_of(logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
    """Cross-entropy, or its mean with the divergence from the teacher's logits."""
    loss = functional.cross_entropy(logits, labels)
    if teacher is None:
        return loss
    divergence = functional.kl_div(
        functional.log_softmax(logits / TEMPERATURE, 1),
        functional.log_softmax(teacher / TEMPERATURE, 1),
        reduction="batchmean",
        log_target=True,
    )
    return 0.5 * loss + 0.5 * TEMPERATURE**2 * divergence


def parameter_groups(network: FashionNetwork) -> list[dict[str, object]]:
    """Weights decay; clipping levels have the L2 term of PACT; BatchNorm and biases have none."""
    alphas = [a.alpha for a in network.modules() if isinstance(a, Pact)]
    others = [p for p in network.parameters() if all(p is not alpha for alpha in alphas)]
    return [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0},
        {"params": alphas, "weight_decay": ALPHA_DECAY},
    ]


def train(
    network: FashionNetwork,
    teacher: FashionNetwork | None,
    images: Tensor,
    labels: Tensor,
    *,
    augment: bool,
    epochs: int,
    peak_rate: float,
    seed: int,
    progress: Progress,
) -> None:
    """One-cycle AdamW training; the BatchNorm statistics are measured anew at the end."""
    fixed = logits_of(teacher, images) if teacher is not None and not augment else None
    generator = torch.Generator().manual_seed(seed)
    steps = len(images) // BATCH
    optimiser = torch.optim.AdamW(parameter_groups(network), lr=peak_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, peak_rate, epochs * steps, pct_start=0.2, cycle_momentum=False
    )
    name = f"seed {seed} {network.precision.name}"
    task = progress.add_task(name, total=epochs * steps, loss=float("nan"))
    for epoch in range(epochs):
        network.train()
        total, right, start = 0.0, 0, time.monotonic()
        order = torch.randperm(len(images), generator=generator)
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            picture, target = images[chosen], labels[chosen]
            batch = as_input(augmented(picture, generator) if augment else picture)
            logits = network(batch)
            reference = None
            if fixed is not None:
                reference = fixed[chosen]
            elif teacher is not None:
                with torch.no_grad():
                    reference = teacher(batch)
            loss = loss_of(logits, target, reference)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
            right += int((logits.argmax(1) == target).sum())
            progress.update(task, advance=1, loss=total / (step + 1))
        progress.console.print(
            f"{name}  epoch {epoch + 1}/{epochs}  loss {total / steps:.4f}  "
            f"training accuracy {100 * right / (steps * BATCH):.2f} %  "
            f"{time.monotonic() - start:.0f} s"
        )
    measure_statistics(network, images, generator, augment=augment)
    progress.remove_task(task)


@torch.no_grad()
def logits_of(network: FashionNetwork, images: Tensor) -> Tensor:
    """Logits of all images as they are."""
    return torch.cat([network(as_input(part)) for part in images.split(512)])


@torch.no_grad()
def measure_statistics(
    network: FashionNetwork,
    images: Tensor,
    generator: torch.Generator,
    *,
    augment: bool,
    batches: int = 40,
) -> None:
    """Replace the running BatchNorm statistics, which lag behind the weights, by plain means."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    order = torch.randperm(len(images), generator=generator)
    for start in range(0, batches * 256, 256):
        picture = images[order[start : start + 256]]
        network(as_input(augmented(picture, generator) if augment else picture))
    network.eval()


def quantised(precision: Precision, reference: FashionNetwork, images: Tensor) -> FashionNetwork:
    """A network of `precision` with the reference's weights and fitted clipping levels."""
    network = FashionNetwork(precision).to(memory_format=CHANNELS_LAST)
    network.load_state_dict(reference.state_dict())
    fit_activations(network, as_input(images[:CALIBRATION]))
    return network


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train and export the Fashion-MNIST networks.")
    here = Path(__file__).parent
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of the IDX files")
    parser.add_argument("--output", type=Path, default=here, help="folder for the results")
    parser.add_argument("--variants", nargs="+", choices=EPOCHS, default=list(EPOCHS))
    parser.add_argument(
        "--epochs",
        nargs="+",
        default=[],
        metavar="VARIANT=N",
        help="epochs of some variants, such as float32=12 int4=4",
    )
    parser.add_argument("--threads", type=int, default=2, help="results depend on this number")
    parser.add_argument(
        "--keep-float32", action="store_true", help="start from the float32 networks found in the "
        "output, as checkpoints or as exported"
    )
    arguments = parser.parse_args()
    epochs = dict(EPOCHS)
    for item in arguments.epochs:
        name, _, count = item.partition("=")
        if name not in PEAK_RATE or not count.isdigit() or not int(count):
            parser.error(f"--epochs must be VARIANT=N with a variant that is trained, not {item!r}")
        epochs[name] = int(count)
    arguments.epochs = epochs
    return arguments


def main() -> int:
    """Train what the command line asks for."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    console = Console()
    try:
        training = load_split(arguments.data, "train")
        test = load_split(arguments.data, "t10k")
    except DatasetMissingError as error:
        console.print(f"[red]{error}", soft_wrap=True)
        return 2
    images, labels = torch.from_numpy(training[0]), torch.from_numpy(training[1]).long()
    output, folder = arguments.output, arguments.output / "parameters"
    (output / "checkpoints").mkdir(parents=True, exist_ok=True)
    save_sample(arguments.data, output / "images.npz")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        for seed in arguments.seeds:
            reference: FashionNetwork | None = None
            float_accuracy: float | None = None
            for name in sorted({*arguments.variants, "float32"}, key=list(EPOCHS).index):
                precision = PRECISIONS[name]
                torch.manual_seed(seed)
                checkpoint = output / "checkpoints" / f"float32-seed{seed}.pt"
                network = reference or FashionNetwork(FLOAT32).to(memory_format=CHANNELS_LAST)
                stem = export.stem_of(precision, seed)
                exported = (folder / stem).with_suffix(".json")
                kept = precision == FLOAT32 and arguments.keep_float32
                if kept and checkpoint.exists():
                    network.load_state_dict(torch.load(checkpoint))
                elif kept and exported.exists():
                    description, arrays = load(exported)
                    export.restore(network, arrays, as_input(images[:CALIBRATION]))
                    float_accuracy = description["accuracy"]["exported"]
                    reference = network.eval()
                    continue
                elif name in PEAK_RATE:
                    if reference is not None:
                        network = quantised(precision, reference, images)
                    train(
                        network,
                        reference,
                        images,
                        labels,
                        augment=name in AUGMENTED,
                        epochs=arguments.epochs[name],
                        peak_rate=PEAK_RATE[name],
                        seed=seed,
                        progress=progress,
                    )
                if reference is None:
                    torch.save(network.state_dict(), checkpoint)
                    reference = network.eval()
                measure_largest(network, as_input(images[:CALIBRATION]))
                description, arrays = export.describe(network, precision, stem)
                measured = record.measure(description, arrays, test, float_accuracy)
                float_accuracy = measured["float32"]
                metadata = {
                    "seed": seed,
                    "epochs": arguments.epochs[name],
                    "accuracy": measured,
                }
                export.save(folder, stem, description | metadata, arrays)
                result = record.write(output / "accuracy.json", folder)
                console.print(f"seed {seed} {name}: {measured['exported']:.2f} % as exported")
    record.print_table(result, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
