"""TorchScript archives are read as data: the tensors that torch itself would find, and nothing runs."""

import pickle
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hostile_pickle import Exploit
from torch import Tensor, nn

from xcoop.backbones.weight_files import read_state_dict, read_torchscript
from xcoop.engine import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
Members = dict[str, bytes]


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2).T)  # strides of its own
        self.fp16 = nn.Parameter(torch.randn(4).half())
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("away", torch.ones(2), persistent=False)
        self.register_buffer("empty", torch.zeros(0, 5))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.count


class Outer(nn.Module):
    """Parameters, buffers, a shared module, views of one storage, and attributes that are no weights."""

    numbers: list[int]
    table: dict[str, Tensor]
    pair: tuple[int, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.rows = Inner(), nn.ModuleList([nn.Linear(2, 2), nn.BatchNorm1d(2)])
        self.again = self.inner
        whole = torch.randn(10)
        self.head, self.tail = nn.Parameter(whole[:4]), nn.Parameter(whole[4:])
        self.numbers, self.table, self.pair = [1, 2], {"k": torch.zeros(2)}, (1, torch.ones(1))
        self.mask, self.big, self.text, self.share = torch.ones(3), 10**12, "x", 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.share + len(self.numbers) + self.table["k"][0] + self.pair[0] + self.mask[0]


class Hostile(nn.Module):
    """Restores itself, without an end."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        self.weight, self.training = state
        while True:
            pass


def saved(model: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model).save(str(path))
    return path


@pytest.fixture
def outer(tmp_path: Path) -> Path:
    return saved(Outer(), tmp_path / "outer.pt")


def rewritten(path: Path, change: Callable[[Members], object]) -> Path:
    """The archive with other members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_scripted_module_reads_as_torch_reads_it(outer: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = dict(torch.jit.load(str(outer)).state_dict())
    found = read_state_dict(outer)
    assert found.keys() == expected.keys()
    assert len(found) == 2 * 5 + 2 + 5 + 2
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_the_interpreter_is_never_asked(outer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("torch.jit.load was called"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    assert read_state_dict(outer)
    with pytest.raises(checkpoint.CheckpointError, match=r"outer\.pt .*TorchScript archive, which holds code"):
        checkpoint.read(outer)


@pytest.mark.parametrize("declared", [True, False])
def test_a_method_that_restores_is_not_run(declared: bool, tmp_path: Path) -> None:
    path = saved(Hostile(), tmp_path / "hostile.pt")
    if not declared:  # the state is no dictionary of attributes, whatever the source says
        rewritten(path, lambda members: [members.pop(name) for name in list(members) if "/code/" in name])
    began = time.monotonic()
    says = "method __setstate__" if declared else "restored from something else than its attributes"
    with pytest.raises(ValueError, match=rf"hostile\.pt is a damaged .*{says}.*Nothing in it was executed"):
        read_state_dict(path)
    assert time.monotonic() - began < 5


def test_a_pickle_refers_to_nothing_that_runs(outer: Path, tmp_path: Path) -> None:
    attack = pickle.dumps(Exploit(str(tmp_path / "owned")), protocol=2)
    rewritten(outer, lambda members: members.update({"outer/data.pkl": attack}))
    with pytest.raises(ValueError, match=r"outer\.pt .*it calls '(io|_io)\.open'"):
        read_torchscript(outer)
    assert not (tmp_path / "owned").exists()


TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0%sX\x03\0\0\0cpu%stQ%s"
)
FOUR = TENSOR % (b"0", b"K\x04", b"K\x00(K\x04t(K\x01t\x89}tR")  # the four numbers of data/0


def by_hand(data: bytes, path: Path) -> Path:
    """An archive around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"data.pkl": data, "constants.pkl": b"", "data/0": bytes(16)}.items():
            archive.writestr(f"m/{name}", content)
    return path


def holding(tensor: bytes) -> bytes:
    """A module with one attribute."""
    return b"\x80\x02c__torch__\nM\n)\x81}(X\x01\0\0\0w" + tensor + b"ub."


def one(key: bytes = b"0", count: bytes = b"K\x04", rest: bytes = b"K\x00(K\x04t(K\x01t\x89}tR") -> bytes:
    return holding(TENSOR % (key, count, rest))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (one(count=b"J\xff\xff\xff\x7f"), "2,147,483,647 numbers of torch.float32 are stated"),
        (one(rest=b"K\x00(J\xff\xff\xff\x7ft(K\x01t\x89}tR"), "out of bounds"),
        (one(rest=b"K\x04(K\x01t(K\x01t\x89}tR"), "out of bounds"),
        (one(rest=b"J\xff\xff\xff\xff(K\x01t(K\x01t\x89}tR"), "storage offset|storage_offset"),
        (one(key=b"9"), "no item named 'm/data/9'"),
        (one()[:-3], "EOF|pickle"),
        (b"\x80\x04\x96" + (1 << 40).to_bytes(8, "little") + b"x.", "150|KeyError"),  # BYTEARRAY8: not a known opcode
        (b"\x80\x02r\xff\xff\xff\x7f.", "."),  # a memo of two thousand million places
        (b"\x80\x02" + b"(" * 100_000 + b".", "."),
        (holding(b"c__torch__\nM\n)\x81}(X\x01\0\0\0w" * 60 + b"N" + b"ub" * 60), "more than 50 deep"),
        (b"\x80\x02]" + b"\x85" * 10**6 + b".", "no modules, but tuple"),
        (b"\x80\x02c__torch__\nM\n)\x81q\x00}(X\x01\0\0\0wh\x00ub.", "deep"),  # a module within itself
        (b"\x80\x02c__torch__\nM\n(K\x01tb.", "restored from"),
        (b"\x80\x02cbuiltins\nobject\n)\x81.", "an object of 'builtins.object'"),
        (b"\x80\x02K\x01)R.", "calls what is no function"),
    ],
)
def test_what_is_no_module_of_tensors_is_named(data: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"m\.pt is a damaged TorchScript archive, or has more.*: .*({says})"):
        read_state_dict(by_hand(data, tmp_path / "m.pt"))


def test_numbers_that_changed_on_the_disk_are_noticed(outer: Path) -> None:
    with zipfile.ZipFile(outer) as archive:
        numbers = archive.read("outer/data/0")
    content = bytearray(outer.read_bytes())
    content[content.index(numbers)] ^= 1
    outer.write_bytes(content)
    with pytest.raises(ValueError, match=r"outer\.pt .*Bad CRC-32 for file 'outer/data/0'"):
        read_state_dict(outer)


def test_numbers_that_end_before_the_stated_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {"data.pkl": one(), "constants.pkl": b"", "data/0": bytes(8)}.items():
            archive.writestr(f"m/{name}", content)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\1\2")  # of data/0, in the list at the end: 24 bytes on, its size
    assert content[entry + 24] == 8
    content[entry + 24] = 16
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.pt .*data/0 ends 8 bytes early"):
        read_state_dict(path)


def test_a_module_that_stands_twice_in_itself_many_times_over_is_refused(tmp_path: Path) -> None:
    layers = b"c__torch__\nM\n)\x81q\x00}(X\x01\0\0\0w" + FOUR + b"ub"
    for number in range(1, 40):  # each holds the one before twice: 2^40 weights
        twice = b"X\x01\0\0\0ah%cX\x01\0\0\0bh%c" % (number - 1, number - 1)
        layers += b"c__torch__\nM\n)\x81q%c}(%sub" % (number, twice)  # what is below it on the stack is no matter
    path = by_hand(b"\x80\x02" + layers + b".", tmp_path / "m.pt")
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"m\.pt .*more than 100,000 weights"):
        read_state_dict(path)
    assert time.monotonic() - began < 10


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", ["pt", "pth.tar-3"])
def test_a_name_that_stands_twice_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    torch.save({"state_dict": {"a": torch.zeros(2)}, "epoch": 1}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(archive.namelist()[0], b"another")
    for read in (read_state_dict, checkpoint.read):
        with pytest.raises((ValueError, checkpoint.CheckpointError), match=r"weights\.pt.* holds '.*data.pkl' twice"):
            read(path)
