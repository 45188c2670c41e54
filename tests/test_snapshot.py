"""What a trial puts back, whatever its class forbids, what it leaves alone and says so, and what that costs."""

import array
import collections
import functools
import io
import itertools
import multiprocessing
import queue
import random
import tempfile
import threading
import types
import warnings
import weakref
from dataclasses import dataclass, field

import gymnasium
import numpy as np
import pytest
import tensordict
import torch
import torch_ema
from sklearn.linear_model import SGDClassifier
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState
from torch.utils.data import Dataset
from torch.utils.tensorboard import SummaryWriter

from lightning_clr import LRRangeTest, lr_range_test
from lightning_clr.trial import randomness
from lightning_clr.trial.snapshot import Snapshot
from support.data import loader
from support.models import Plain
from support.training import quiet_trainer


def holder(**attributes) -> Plain:
    """A module with attributes of its own."""
    module = Plain()
    vars(module).update(attributes)
    return module


def undone(value, change, **how):
    """Change what a module holds, between a snapshot and its end."""
    module = holder(value=value)
    with Snapshot(users=(module,), **how) as snapshot:
        snapshot.add(module)
        change(module)
    return module.value


# --- installed classes ------------------------------------------------------------------------------------------------


def test_averages_of_torch_ema_are_put_back():
    """Number of updates and shadow parameters."""
    module = Plain()
    module.ema = torch_ema.ExponentialMovingAverage(module.parameters(), decay=0.5)
    before = [shadow.clone() for shadow in module.ema.shadow_params]
    with Snapshot(users=(module,)) as snapshot:
        snapshot.add(module)
        nn.init.ones_(module.head.weight)
        module.ema.update()

    assert module.ema.num_updates == 0
    assert all(map(torch.equal, module.ema.shadow_params, before))


def test_tensordict_is_put_back():
    """Entries written in place, replaced, added, deleted and nested ones."""

    def change(module):
        module.value["a"].add_(1)
        module.value["b"] = torch.ones(2)
        module.value["nested", "c"].add_(1)
        module.value["late"] = torch.zeros(2)
        del module.value["gone"]

    zeros = {name: torch.zeros(2) for name in ("a", "b", "gone")}
    made = tensordict.TensorDict({**zeros, "nested": {"c": torch.zeros(2)}}, [2])

    found = undone(made, change)

    assert sorted(found.keys()) == ["a", "b", "gone", "nested"]
    assert sum(leaf.sum() for leaf in found.values(True, True)) == 0


def test_estimator_of_scikit_learn_is_put_back():
    """Which writes into its arrays, and gives itself new ones."""
    data = np.random.default_rng(0).normal(size=(20, 3))
    estimator = SGDClassifier(random_state=np.random.RandomState(1)).partial_fit(data, data[:, 0] > 0, [False, True])
    weights, steps = estimator.coef_.copy(), estimator.t_

    undone(estimator, lambda module: module.value.partial_fit(data, data[:, 1] > 0))

    assert (estimator.coef_ == weights).all()
    assert estimator.t_ == steps


def test_environment_of_gymnasium_is_put_back():
    """What comes after is what would have come."""

    def play(environment):
        return [environment.step(1)[0].tolist() for _ in range(5)]

    def reset_and_play(module):
        play(module.value)
        module.value.reset()
        play(module.value)

    environments = [gymnasium.make("CartPole-v1") for _ in range(2)]
    for environment in environments:
        environment.reset(seed=3)
    undone(environments[0], reset_and_play)

    assert play(environments[0]) == play(environments[1])
    assert environments[0].reset()[0].tolist() == environments[1].reset()[0].tolist()


def test_state_of_a_communication_hook_is_put_back():
    """PowerSGD's has slots, dictionaries of tensors and a generator."""

    def change(module):
        state = module.value
        state.iter = 9
        state.p_memory_dict[0].add_(1)
        state.error_dict[0] = torch.ones(1)
        state.rng.rand()

    state = PowerSGDState(process_group=None, start_powerSGD_iter=2)
    state.p_memory_dict[0] = torch.zeros(2)
    drawn = PowerSGDState(process_group=None, start_powerSGD_iter=2).rng.rand()

    undone(state, change)

    assert (state.iter, state.error_dict, state.p_memory_dict[0].sum(), state.rng.rand()) == (0, {}, 0, drawn)


class Endless:
    """Draws an order of its own for each epoch; no Sampler."""

    def __init__(self):
        self.rng, self.epoch = random.Random(4), 0

    def __iter__(self):
        self.epoch += 1
        return iter(self.rng.sample(range(256), 256))

    def __len__(self):
        return 256


def test_sampler_is_known_by_its_role():
    """Whatever its class."""
    sampler = Endless()
    lr_range_test(quiet_trainer(max_epochs=1), Plain(), loader(sampler=sampler), num_steps=20, closer_look=False)

    assert sampler.epoch <= 1


# --- containers and attributes ----------------------------------------------------------------------------------------


class Frozen(dict):
    def _no(self, *_, **__):
        raise TypeError("frozen")

    __setitem__ = __delitem__ = update = clear = pop = popitem = setdefault = _no


class FrozenOrder(collections.OrderedDict):
    __slots__ = ()

    def update(self, *_, **__):
        raise TypeError("no")

    clear = update


class Adding(dict):
    def update(self, other):
        for key, value in other.items():
            self[key] = self.get(key, 0) + value


class Appending(list):
    def extend(self, _):
        raise TypeError("use append")

    clear = __setitem__ = __delitem__ = extend


class Full(collections.deque):
    def extend(self, _):
        raise TypeError("full")

    clear = extend


class Closed(set):
    def update(self, _):
        raise TypeError("closed")

    clear = update


def keys(container):
    if isinstance(container, dict):
        return list(container.items())
    return list(container) if hasattr(container, "__iter__") else container.value


CONTAINERS = {
    "frozen dictionary": (Frozen(a=1), lambda value: dict.__setitem__(value, "a", 2)),
    "ordered, refusing": (FrozenOrder(a=1, b=2), lambda value: value.__setitem__("c", 3)),
    "ordered anew": (collections.OrderedDict(a=1, b=2), lambda value: value.move_to_end("a")),
    "dictionary ordered anew": ({"a": 1, "b": 2}, lambda value: value.update(a=value.pop("a"))),
    "adding up": (Adding(a=1), lambda value: value.update({"a": 3, "b": 1})),
    "counter": (collections.Counter("aab"), lambda value: value.update("abc")),
    "default dictionary": (collections.defaultdict(list), lambda value: value["new"].append(1)),
    "chain map": (collections.ChainMap({"a": 1}), lambda value: value.update(a=2, b=3)),
    "user dictionary": (collections.UserDict(a=1), lambda value: value.update(a=2)),
    "refusing list": (Appending([1]), lambda value: value.append(2)),
    "refusing queue": (Full([1, 2], maxlen=2), lambda value: value.append(3)),
    "refusing set": (Closed({1}), lambda value: value.add(2)),
    "bytes": (bytearray(b"abc"), lambda value: value.append(1)),
    "numbers": (array.array("d", [1.0]), lambda value: value.append(2.0)),
    "shared number": (multiprocessing.Value("i", 1), lambda value: setattr(value, "value", 2)),
    "read-only view": (types.MappingProxyType({"a": [1]}), lambda value: value["a"].append(2)),
}


@pytest.mark.parametrize(("value", "change"), CONTAINERS.values(), ids=CONTAINERS)
def test_container_is_put_back(value, change):
    """Past what its class forbids or makes of it."""
    before = repr(keys(value))

    assert repr(keys(undone(value, lambda module: change(module.value)))) == before


@pytest.mark.parametrize("value", [Frozen(a=1), FrozenOrder(a=1), Appending([1]), Full([1]), Closed({1})])
def test_what_has_not_changed_is_not_touched(value):
    """None of these can be touched."""
    assert undone(value, lambda module: None) is value


class Strict:
    """Forbids all writing."""

    __slots__ = ("__hidden", "late", "value")

    def __init__(self):
        object.__setattr__(self, "value", 0)
        object.__setattr__(self, "_Strict__hidden", [0])

    def __setattr__(self, name, value):
        raise AttributeError("frozen")


@dataclass(frozen=True)
class Record:
    number: int = 0
    parts: dict = field(default_factory=dict)


def test_frozen_objects_are_put_back():
    """With slots, private ones too, and with a dictionary."""
    strict, record = Strict(), Record()

    def change(module):
        for name, value in {"value": 1, "late": 2}.items():
            object.__setattr__(strict, name, value)
        strict._Strict__hidden.append(1)
        object.__setattr__(record, "number", 1)
        record.parts["new"] = 1

    undone([strict, record], change)

    assert (strict.value, strict._Strict__hidden, hasattr(strict, "late")) == (0, [0], False)
    assert record == Record()


def test_state_of_functions_is_put_back():
    """Attributes, defaults, variables that have no value yet, and the object of a bound method."""

    def late():
        return later

    def function(memory=[]):  # noqa: B006
        return memory

    function.calls = 0
    rng = random.Random(1)
    expected = random.Random(1).random()

    def change(module):
        nonlocal later
        later = 1
        function.calls += 1
        function().append(1)
        rng.random()

    undone([function, late, rng.random], change)

    assert (function.calls, function()) == (0, [])
    with pytest.raises(NameError):
        late()
    assert rng.random() == expected
    later = 2


def test_replaced_dictionary_of_an_object_is_put_back():
    def change(module):
        module.value.__dict__ = {"n": 5, "more": 1}

    assert vars(undone(Stepping(0), change)) == {"of": 0}


def test_long_chains_are_walked():
    """Deeper than Python's recursion goes."""
    first = node = types.SimpleNamespace(n=0, next=None)
    for _ in range(3_000):
        node.next = types.SimpleNamespace(n=0, next=None)
        node = node.next

    undone(first, lambda module: setattr(node, "n", 1))

    assert node.n == 0


# --- tensors, arrays, random generators -------------------------------------------------------------------------------


def written(tensor):
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        tensor.add_(1)


def inference():
    with torch.inference_mode():
        return torch.zeros(3)


LEAF = torch.zeros(3, requires_grad=True)
TENSORS = {
    "trainable": (lambda: torch.zeros(3, requires_grad=True), written),
    "computed": (lambda: LEAF * 2, lambda t: t.data.add_(1)),
    "frozen": (lambda: nn.Parameter(torch.zeros(3), requires_grad=False), written),
    "frozen, by another name": (lambda: nn.Parameter(torch.zeros(3), False), lambda t: t.data.add_(1)),
    "frozen, through NumPy": (lambda: nn.Parameter(torch.zeros(3), False), lambda t: t.numpy().__iadd__(1)),
    "large": (lambda: torch.zeros(2**19), written),
    "of NumPy": (lambda: nn.Parameter(torch.from_numpy(np.zeros(3)), False), lambda t: t.data.add_(1)),
    "shared": (lambda: nn.Parameter(torch.zeros(3).share_memory_(), False), lambda t: t.data.add_(1)),
    "given new memory": (lambda: torch.zeros(3), lambda t: setattr(t, "data", torch.ones(3))),
    "of another type": (lambda: torch.zeros(3), lambda t: setattr(t, "data", torch.ones(3).half())),
    "resized": (lambda: torch.zeros(3), lambda t: t.resize_(7).fill_(1)),
    "transposed": (lambda: torch.zeros(2, 3).t(), lambda t: setattr(t, "data", torch.ones(3, 2))),
    "expanded": (lambda: torch.zeros(1).expand(3), lambda t: t[:1].add_(1)),
    "part of another": (lambda: torch.zeros(9)[2:5], written),
    "complex": (lambda: torch.zeros(3, dtype=torch.cfloat), written),
    "sparse": (lambda: torch.zeros(3, 3).to_sparse(), lambda t: t.add_(torch.eye(3).to_sparse())),
    "compressed": (lambda: torch.eye(3).to_sparse_csr(), lambda t: t.mul_(2)),
    "inference": (inference, written),
    "integers": (lambda: torch.zeros(3, dtype=torch.long), written),
    "eight bits": (lambda: torch.zeros(3, dtype=torch.float8_e4m3fn), lambda t: t.fill_(1)),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize(("make", "change"), TENSORS.values(), ids=TENSORS)
def test_tensor_is_put_back(make, change):
    tensor = make()
    before = (tensor.to_dense().clone(), tensor.dtype, tensor.layout == torch.strided and tensor.stride())

    undone(tensor, lambda module: change(module.value))

    assert torch.equal(tensor.to_dense().to(torch.cfloat), before[0].to(torch.cfloat))
    assert (tensor.dtype, tensor.layout == torch.strided and tensor.stride()) == before[1:]


def test_names_of_one_memory_stay_so():
    """Also when one of them has been given other memory meanwhile."""
    weight = nn.Parameter(torch.zeros(3))
    other = weight.data

    undone([weight, other], lambda module: setattr(weight, "data", torch.ones(3)))
    other.add_(2)

    assert weight.tolist() == [2, 2, 2]


ARRAYS = {
    "of numbers": (np.zeros(3), lambda a: a.__iadd__(1)),
    "masked": (np.ma.array([0.0, 0.0], mask=[True, False]), lambda a: a.mask.__setitem__(0, False)),
    "matrix": (np.zeros((2, 2)).view(np.matrix), lambda a: a.__iadd__(1)),
    "made read-only": (np.zeros(3), lambda a: (a.__iadd__(1), a.setflags(write=False))),
    "resized": (np.zeros(3), lambda a: a.resize(5, refcheck=False)),
    "of objects": (np.array([[0], {"a": 0}], dtype=object), lambda a: (a[0].append(1), a[1].clear())),
}


@pytest.mark.parametrize(("made", "change"), ARRAYS.values(), ids=ARRAYS)
def test_array_is_put_back(made, change):
    before = repr(made)

    assert repr(undone(made, lambda module: change(module.value))) == before


class Loaded(random.Random):
    """Counts."""

    def __init__(self, seed):
        super().__init__(seed)
        self.draws = 0

    def random(self):
        self.draws += 1
        return super().random()


GENERATORS = {
    "python": (lambda: random.Random(1), lambda g: g.random()),
    "subclass": (lambda: Loaded(1), lambda g: (g.random(), g.draws)),
    "torch": (lambda: torch.Generator().manual_seed(1), lambda g: torch.rand((), generator=g).item()),
    "numpy": (lambda: np.random.default_rng(1), lambda g: g.normal()),
    "numpy, legacy": (lambda: np.random.RandomState(1), lambda g: g.randn()),
    "bits": (lambda: np.random.PCG64(1), lambda g: g.random_raw()),
}


@pytest.mark.parametrize(("make", "draw"), GENERATORS.values(), ids=GENERATORS)
def test_generator_is_put_back(make, draw):
    assert draw(undone(make(), lambda module: draw(module.value))) == draw(make())


def test_generator_of_the_machine_is_let_be():
    """It has no state."""
    undone(random.SystemRandom(), lambda module: module.value.random())


@pytest.mark.parametrize("name", ["xpu", "mps", "cuda"])
def test_generators_of_every_accelerator_are_put_back(name, monkeypatch):
    """One that is in use."""
    state = {"seed": 1}
    whole = "" if name == "mps" else "_all"
    accelerator = types.SimpleNamespace(is_available=lambda: True)
    setattr(accelerator, f"get_rng_state{whole}", lambda: dict(state))
    setattr(accelerator, f"set_rng_state{whole}", state.update)
    accelerator.get_rng_state = getattr(accelerator, f"get_rng_state{whole}")
    accelerator.set_rng_state = getattr(accelerator, f"set_rng_state{whole}")
    monkeypatch.setattr(torch, name, accelerator)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: name == "mps")
    before = randomness.rng_state()
    state["seed"] = 2
    randomness.set_rng_state(before)

    assert state == {"seed": 1}


# --- left alone, and told ---------------------------------------------------------------------------------------------


class Writer:
    """Of the user: writes lines into a file and counts them."""

    def __init__(self):
        self.file, self.lines = tempfile.TemporaryFile("w"), 0  # noqa: SIM115

    def __del__(self):
        self.file.close()

    def write(self):
        self.file.write("line\n")
        self.lines += 1


class Prefetcher:
    """Of the user: a queue that a thread fills."""

    def __init__(self):
        self.queue, self.taken = queue.Queue(), 0

    def write(self):
        self.taken += 1


class Stepping:
    def __init__(self, of):
        self.of = of

    def write(self):
        next(self.of)


def generated():
    yield from range(100)


LEFT = {
    "file": (Writer, "Writer"),
    "queue": (Prefetcher, "Prefetcher"),
    "counter": (lambda: Stepping(itertools.count()), "count"),
    "iterator": (lambda: Stepping(iter(list(range(99)))), "list_iterator"),
    "iterators": (lambda: Stepping(zip(iter([*range(99)]), iter([*range(99)]), strict=True)), "zip"),
    "generator": (lambda: Stepping(generated()), "generator"),
}


@pytest.mark.parametrize(("make", "name"), LEFT.values(), ids=LEFT)
def test_what_cannot_be_put_back_is_named_if_it_has_changed(make, name):
    """And only then."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        undone(make(), lambda module: None)
    with pytest.warns(UserWarning, match=f"cannot put back .*{name}"):
        undone(make(), lambda module: module.value.write())


def test_what_holds_a_file_is_left_as_a_whole():
    """What it says of the file stays true."""
    writer = Writer()
    with pytest.warns(UserWarning, match=r"`Plain.value` \(test_snapshot.Writer\)"):
        undone(writer, lambda module: module.value.write())

    assert writer.lines == 1


def test_writer_of_an_installed_package_is_left_as_a_whole(tmp_path):
    """It would write over its own file if it were put back in part."""
    writer = SummaryWriter(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        undone(writer, lambda module: [module.value.add_scalar("a", i, i) for i in range(50)])
    writer.flush()
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    writer.add_scalar("a", 51, 51)
    writer.close()

    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > size > 50 * 20


def test_locks_of_the_users_own_objects_are_no_hindrance():
    value = types.SimpleNamespace(lock=threading.Lock(), n=0)

    assert undone(value, lambda module: setattr(module.value, "n", 1)).n == 0


def test_dead_references_are_let_be():
    undone([weakref.ref(Plain()), weakref.WeakValueDictionary()], lambda module: None)


class Draws(Plain):
    def __init__(self):
        super().__init__()
        self.noise = generated()

    def training_step(self, batch, batch_idx):
        next(self.noise)
        return super().training_step(batch, batch_idx)


def test_warning_comes_once_for_a_test_of_several_trials():
    """The second sweep says nothing new."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = Draws()
        for _ in range(2):
            lr_range_test(quiet_trainer(max_epochs=1), module, loader(), num_steps=20, closer_look=False)

    assert sum("cannot put back `Draws.noise` (generator)" in str(one.message) for one in caught) == 1


# --- cost -------------------------------------------------------------------------------------------------------------


class Records(Dataset):
    def __init__(self, rows, late):
        self.rows, self.transform = rows, types.SimpleNamespace(rng=late)


@pytest.mark.parametrize("number", [500, 10_000, 100_000])
def test_data_sets_of_small_objects_are_not_looked_through(number, monkeypatch):
    """What is beside the records is looked into all the same."""
    visits, visit = [], Snapshot._visit
    monkeypatch.setattr(Snapshot, "_visit", lambda self, *args: visits.append(1) or visit(self, *args))
    rng = random.Random(1)
    data = Records([{"boxes": [[i], [i]], "y": {"v": i}} for i in range(number)], rng)
    with Snapshot() as snapshot:
        snapshot.add(data, data=True)
        snapshot.can_rewind(data)
        rng.random()

    assert len(visits) < 30_000
    assert rng.random() == random.Random(1).random()


def copied(monkeypatch, run):
    """The bytes of tensors that are copied at once, beside the data."""
    sizes, copy = [], Snapshot._copy
    monkeypatch.setattr("lightning_clr.trial.snapshot._DATA_BYTES", 0)
    monkeypatch.setattr(Snapshot, "_copy", lambda self, tensor: sizes.append(tensor.nbytes) or copy(self, tensor))
    run()
    return sum(sizes)


class Adapted(Plain):
    """A frozen base, a table that never changes, a trainable head."""

    def __init__(self):
        super().__init__()
        self.body.requires_grad_(False)
        self.register_buffer("table", torch.zeros(2**18))

    def configure_optimizers(self):
        return torch.optim.SGD(self.head.parameters(), lr=0.1)


HEAD = 4 * (16 * 3 + 3)


def test_frozen_weights_are_not_copied(monkeypatch):
    """By the callback; the module stays as it was."""

    def run():
        quiet_trainer(max_steps=1, callbacks=[LRRangeTest(num_steps=10, closer_look=False)]).fit(Adapted(), loader())

    assert copied(monkeypatch, run) == HEAD


def test_function_copies_trainable_weights_once(monkeypatch):
    """Not once around the set-up, and again around the steps."""
    module = Adapted()
    before = {name: value.clone() for name, value in module.state_dict().items()}

    def run():
        lr_range_test(quiet_trainer(max_epochs=1), module, loader(), num_steps=10, closer_look=False)

    assert copied(monkeypatch, run) == HEAD
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Filled(Plain):
    """Fills weights when it is set up, and takes them apart at the end."""

    def setup(self, stage):
        nn.init.ones_(self.head.weight)

    def teardown(self, stage):
        self.head.weight.data.zero_()
        self.body.weight.data.zero_()


def test_function_puts_back_what_setting_up_changes():
    """And what tearing down does."""
    module = Filled()
    before = [weight.clone() for weight in module.parameters()]
    lr_range_test(quiet_trainer(max_epochs=1), module, loader(), num_steps=10, closer_look=False)

    assert all(map(torch.equal, module.parameters(), before))


class Lazy(Plain):
    """Learns its sizes when it is set up."""

    def __init__(self):
        super().__init__()
        self.body = nn.LazyLinear(16)

    def setup(self, stage):
        self(torch.zeros(1, 8))


def test_function_leaves_lazy_modules_lazy():
    """They may be set up again, and again."""
    module = Lazy()
    for _ in range(2):
        lr_range_test(quiet_trainer(max_epochs=1), module, loader(), num_steps=10, closer_look=False)

        assert isinstance(module.body.weight, nn.UninitializedParameter)
    quiet_trainer(max_steps=1).fit(module, loader())


class Momentum(Plain):
    """A frozen twin that follows, written to behind autograd's back."""

    def __init__(self):
        super().__init__()
        self.twin = nn.Linear(8, 16).requires_grad_(False)

    def on_train_batch_end(self, *_):
        for slow, fast in zip(self.twin.parameters(), self.body.parameters(), strict=True):
            slow.data = slow.data * 0.9 + fast.data * 0.1
            slow.data.mul_(1.01)

    def configure_optimizers(self):
        return torch.optim.SGD([*self.body.parameters(), *self.head.parameters()], lr=0.1)


def test_frozen_weights_that_are_written_to_are_put_back():
    """By names that autograd does not count."""
    module = Momentum()
    before = [weight.clone() for weight in module.parameters()]
    lr_range_test(quiet_trainer(max_epochs=1), module, loader(), num_steps=10, closer_look=False)

    assert all(map(torch.equal, module.parameters(), before))


@pytest.mark.parametrize("text", ["CUDA out of memory. Tried to allocate 2.00 GiB", "MPS backend out of memory"])
def test_running_out_of_memory_says_what_helps(text, monkeypatch):
    """While copying as well as in a step."""
    error = RuntimeError if "MPS" in text else torch.OutOfMemoryError

    def fail(*_):
        raise error(text)

    monkeypatch.setattr(Snapshot, "_copy", fail)
    with pytest.raises(error, match=r'(?s)out of memory.*`snapshot_device="cpu"`'):
        lr_range_test(quiet_trainer(max_epochs=1), Plain(), loader(), num_steps=10)


def test_memory_that_was_shared_for_a_while_is_ordinary_again():
    """It may be sent to other processes, and seen through NumPy."""
    frozen = nn.Parameter(torch.zeros(3), requires_grad=False)
    undone(frozen, lambda module: None)
    pointer = frozen.data_ptr()
    frozen.data.numpy()[0] = 1

    assert (frozen.data_ptr(), frozen.tolist()) == (pointer, [1, 0, 0])
    assert frozen.share_memory_().is_shared()


def test_partial_functions_are_looked_into():
    """And buffers of text."""
    memory, text = [], io.StringIO("abc")

    undone([functools.partial(memory.append, 1), text], lambda module: (memory.append(1), text.write("xyz")))

    assert (memory, text.getvalue(), text.tell()) == ([], "abc", 0)
