"""The code that users read runs."""

import importlib
import math
import os
import pickle
import re
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from support.data import loader
from support.models import Plain

ROOT = Path(__file__).parents[1]

matplotlib.use("Agg")


@pytest.fixture
def quiet(monkeypatch):
    """Trainers that readers configure as they like stay quiet here."""
    for name, value in {"LOGGER": "False", "ENABLE_PROGRESS_BAR": "False", "ENABLE_CHECKPOINTING": "False"}.items():
        monkeypatch.setenv(f"PL_TRAINER_{name}", value)


@pytest.mark.usefixtures("quiet")
def test_readme_code_runs(tmp_path, capsys, monkeypatch):
    """Block after block, page after page, with the model and the data of the reader."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    python = re.compile(r"```python\n(.*?)```", re.DOTALL)
    blocks = [(page, code) for page in pages for code in python.findall(page.read_text())]
    names = {"model": Plain(), "train_dataloaders": loader(), "val_dataloaders": loader(64)}

    for page, code in blocks:
        monkeypatch.setenv("PL_TRAINER_ENABLE_CHECKPOINTING", str("ModelCheckpoint" in code))
        exec(compile(code, page.name, "exec"), names)

    assert len(blocks) >= 6
    assert "LR range test: base_lr=" in capsys.readouterr().out
    assert (tmp_path / "curve.csv").exists()


def test_links_lead_somewhere():
    """Those between the pages, and to pictures and tests."""
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def command_lines():
    """Those of the README."""
    block = (ROOT / "README.md").read_text().partition("<!-- command line -->\n```console\n")[2].partition("```")[0]
    return block.splitlines()


@pytest.mark.processes
@pytest.mark.parametrize("line", command_lines())
def test_readme_commands_run(line, tmp_path):
    """As they are written, on a few batches."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    few = "--trainer.max_epochs=1 --trainer.limit_train_batches=15 --trainer.accelerator=cpu"
    python = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    done = subprocess.run(
        f"{line} {few}", shell=True, env=os.environ | python, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    if "range_test" in line:
        written = (path for path in tmp_path.rglob("*") if path.name == "bounds.json")
        assert "base_lr" in done.stdout + "".join(path.read_text() for path in written)


@pytest.mark.processes
@pytest.mark.usefixtures("quiet")
def test_digits_example_runs(tmp_path, capsys):
    """Real data, a range test, 1cycle, and two pictures."""
    runpy.run_path(str(ROOT / "examples" / "digits.py"))["main"](max_epochs=4)

    printed = capsys.readouterr().out
    ours, default = (float(percent) for percent in re.findall(r"([\d.]+)%", printed))
    assert "LR range test: base_lr=" in printed
    assert ours > 96 > default
    assert {path.name for path in tmp_path.iterdir()} == {"range_test.png", "schedule.png"}


@pytest.fixture
def example(monkeypatch):
    """Imports an example as if it were run from its folder."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module


def written():
    """Pictures in the current folder, which are small enough for a page."""
    assert all(path.stat().st_size < 200_000 for path in Path().iterdir())
    return {path.name for path in Path().iterdir()}


@pytest.mark.processes
def test_five_rates_do_what_the_analysis_says(example):
    five_rates = example("five_rates")

    counted = five_rates.main(animate=True)

    assert counted == {0.01: 228, 0.1: 21, 0.7: 6, 0.99: 228, 1.01: math.inf}
    assert counted == {lr: five_rates.steps_to_a_hundredth(lr) for lr in counted}
    assert abs(five_rates.descend(0.99, 300)[-1]) < 0.01 < 100 < abs(five_rates.descend(1.01, 300)[-1])
    assert written() == {"five_rates.svg", "five_rates.gif"}


@pytest.mark.processes
def test_cyclical_rate_leaves_the_saddle_first(example):
    counts = example("saddle").main()

    left = {name: counted for name, (counted, _) in counts.items()}
    assert left["cyclical"] < left["fixed, the lower bound"] / 5
    assert left["cyclical"] == pytest.approx(left["fixed, the mean"], rel=0.1)
    assert [*left.values()] == pytest.approx([expected for _, expected in counts.values()], rel=0.04)
    assert written() == {"saddle.svg"}


def test_stages_are_those_of_the_paper(example):
    """Table 2 of Smith 2017: lower bound, peak and step size of each stage."""
    clr_against_fixed = example("clr_against_fixed")
    lr = partial(clr_against_fixed.Stages().lr, total_steps=25_000, bounds=clr_against_fixed.BOUNDS)

    starts = [lr(step) for step in (0, 4_000, 16_000, 22_000, 24_000)]
    peaks = [lr(step) for step in (2_000, 14_000, 17_000, 21_000, 22_500, 24_500)]

    assert starts == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5, 1e-5])
    assert peaks == pytest.approx([5e-3, 5e-3, 5e-4, 5e-4, 5e-5, 5e-5])


@pytest.mark.processes
@pytest.mark.usefixtures("quiet")
def test_clr_against_fixed_runs(example, capsys):
    finals = example("clr_against_fixed").main(seeds=1, scale=250, validations=5)

    printed = capsys.readouterr().out
    assert "digits of scikit-learn, lengths over 250" in printed
    assert "| CLR, three stages | 100 |" in printed
    assert finals["CLR, three stages"] > 20  # a tenth by guessing
    assert written() == {"clr_against_fixed.svg"}


def test_cifar_says_what_is_missing(example):
    with pytest.raises(SystemExit, match="cifar-10-batches-py"):
        example("common").cifar10("nowhere")


@pytest.fixture
def cifar():
    """A folder like that of CIFAR-10, with six random images a pickle; classes are numbered from first to last."""
    folder = Path("cifar")
    (folder / "cifar-10-batches-py").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number, name in enumerate(["data_batch_1", *(f"data_batch_{n}" for n in range(2, 6)), "test_batch"]):
        images = draw.integers(0, 256, (6, 3072), dtype=np.uint8)
        part = {b"data": images, b"labels": [(6 * number + image) % 10 for image in range(6)]}
        (folder / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(part))
    return folder


def test_cifar_is_read_from_its_pickles(example, cifar):
    train, test = example("common").cifar10(cifar)
    few_train, few_test = example("common").cifar10(cifar, train=8, test=2)

    second = pickle.loads((cifar / "cifar-10-batches-py" / "data_batch_2").read_bytes())
    assert train[:][0].shape == (30, 3, 32, 32)
    assert torch.equal(train[6][0], torch.tensor(second[b"data"][0]).reshape(3, 32, 32) / 255)
    assert train[:][1].tolist() == [label % 10 for label in range(30)]
    assert test[:][1].tolist() == [0, 1, 2, 3, 4, 5]
    assert [len(few_train), len(few_test)] == [8, 2]


def test_batches_are_those_of_a_plain_loader(example):
    """The same images in the same order, though each batch is one look-up."""
    data = example("common").digits(100)

    torch.manual_seed(0)
    ours = [*example("common").batches(data, 30)[0]]
    torch.manual_seed(0)
    plain = [*DataLoader(data[0], 30, shuffle=True, drop_last=True)]

    assert len(ours) == len(plain) == 3
    assert all(
        torch.equal(x, y) for one, other in zip(ours, plain, strict=True) for x, y in zip(one, other, strict=True)
    )


def test_caffe_network_takes_images_of_both_sizes(example):
    network = example("clr_against_fixed").caffe_network

    assert network(3, 32)(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert sum(p.numel() for p in network(3, 32).parameters()) == 89_578  # as in Caffe
    assert network(1, 8)(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_recorded_runs_tell_what_the_page_says(example, capsys):
    """Those of a GPU, from which the opening figure is drawn."""
    finals = example("clr_against_fixed").main(recorded=ROOT / "docs" / "clr_against_fixed_cifar.json")

    page = (ROOT / "docs" / "article.md").read_text()
    assert [round(final, 1) for final in finals.values()] == [80.4, 79.6, 76.3, 78.9]
    assert all(f"{final:.1f} %" in page for final in finals.values())
    assert "| CLR, three stages | 25,000 | 2 |" in capsys.readouterr().out
    assert written() == {"clr_against_fixed_cifar.svg"}


@pytest.mark.parametrize("name", ["clr_against_fixed", "super_convergence", "three_bounds", "weight_decay"])
def test_records_are_drawn(example, name):
    """Those of CIFAR-10, without the data."""
    path = ROOT / "docs" / f"{name}_cifar.json"

    example(name).main(recorded=path)

    assert path.stat().st_size < 30_000
    assert written() == {f"{name}_cifar.svg"}


@pytest.mark.processes
@pytest.mark.usefixtures("quiet")
def test_schedules_run(example):
    names = ("step decay", "triangular2", "1cycle", "Adam")

    results = example("schedules").main(steps=40, seeds=1, validations=2, names=names)

    rates = {name: lrs for name, (lrs, _) in results.items()}
    assert rates["step decay"][-1] == pytest.approx(rates["step decay"][0] / 8)
    assert rates["1cycle"][-1] < rates["1cycle"][0] < max(rates["1cycle"])
    assert len(set(rates["Adam"])) == 1
    assert written() == {"schedules.svg"}


@pytest.mark.processes
@pytest.mark.usefixtures("quiet")
def test_range_test_as_smith_draws_it(example):
    linear, exponential = example("range_test_smith").main(num_steps=60)

    assert linear.monitor == "val_acc"
    assert linear.values[0] < 0.3 < 0.7 < max(linear.values)  # a sweep half as long as the page's
    assert exponential.bounds.base_lr < exponential.bounds.max_lr
    assert written() == {"range_test_smith.svg"}


@pytest.mark.processes
@pytest.mark.usefixtures("quiet")
def test_three_pairs_of_bounds(example):
    """Smith's figure, his rule and the default search, on digits; nothing is searched again where there is a record."""
    three_bounds = example("three_bounds")

    found = three_bounds.main(sweep_steps=100, run_steps=10, validations=20)
    example("common").record("kept", "here", found)
    kept = three_bounds.main(recorded="kept.json")

    assert found["bounds"]["Smith's figure"] == [0.001, 0.006]
    assert found["sweep"]["lrs"][-1] == pytest.approx(0.02)
    assert list(kept["accuracies"]) == list(found["accuracies"])
    assert written() == {"three_bounds.svg", "three_bounds_cifar.svg", "kept.json"}


def test_all_digits_are_used(example):
    """In training those that are asked for, in testing all the others."""
    common = example("common")

    assert [len(part) for part in common.digits()] == [1438, 359]
    assert [len(part) for part in common.digits(300)] == [300, 359]


def test_digits_are_those_of_the_example_that_stands_alone(example):
    """It brings its own network and loaders; what the others say of it is true of theirs."""
    common, alone = example("common"), example("digits")

    with_norm = alone.DefaultRate().network
    without = [str(layer) for layer in with_norm if not isinstance(layer, torch.nn.BatchNorm2d)]

    assert [str(layer) for layer in common.digits_network()] == without
    assert len(without) == len(with_norm) - 2
    for ours, theirs in zip(common.digits(), alone.loaders(), strict=True):
        assert all(map(torch.equal, ours[:], theirs.dataset[:]))


@pytest.mark.processes
@pytest.mark.usefixtures("quiet")
def test_super_convergence_has_its_signature(example):
    """A rise, a fall where the learning rate is large, a second rise."""
    runs = example("super_convergence").main(lengths=(5,), seeds=1)

    accuracies = runs["1cycle, 0.035 to 0.35"]["accuracies"]  # every five steps
    rise = max(accuracies[:8])
    dip = min(accuracies[accuracies.index(rise) : 12])
    assert rise - dip > 15
    assert accuracies[-1] - dip > 30
    assert written() == {"super_convergence.svg"}


@pytest.mark.processes
@pytest.mark.usefixtures("quiet")
def test_weight_decay_lowers_the_highest_rate(example):
    rates = example("weight_decay").main(seeds=1)

    assert rates[0.0] >= rates[1e-3] > rates[1e-2]
    assert written() == {"weight_decay.svg"}


@pytest.mark.processes
@pytest.mark.usefixtures("quiet")
def test_resnet56_runs_on_noise(example, capsys):
    """Two steps; the recipe is for a GPU and for CIFAR-10."""
    resnet56 = example("resnet56")

    resnet56.main(steps=2, device="cpu", batch_size=8)

    convolutions = [m for m in example("common").residual_network().modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) + 1 == 56
    assert "noise" in capsys.readouterr().out
