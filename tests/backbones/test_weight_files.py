"""Weights from local files: every form that is known is read, and no other file gets its way."""

from __future__ import annotations

import pickle
import tarfile
import weakref
import zipfile

import pytest
import torch
from helpers_clip import save_archive
from hostile_pickle import Exploit
from yacs.config import CfgNode

from xcoop.backbones import clip_model, load_backbone, openai
from xcoop.backbones.clip_model import build_clip, import_clip, is_finite, read_clip
from xcoop.backbones.phantom import load_state_dict, pretrained_path, save_state_dict
from xcoop.backbones.weight_files import read_state_dict


def load(path, name="ViT-B/16"):
    return load_backbone(CfgNode({"MODEL": {"BACKBONE": {"NAME": name, "PATH": str(path)}}}))


def holds(backbone, state):
    return all(torch.equal(value, state[name]) for name, value in backbone.model.state_dict().items())


@pytest.fixture(scope="module")
def half_state(tiny_state):
    return {name: value.half().float() for name, value in tiny_state.items()}


@pytest.fixture(scope="module")
def archive(half_state, tmp_path_factory):
    path = tmp_path_factory.mktemp("jit") / "archive.pt"
    save_archive(half_state, path)
    return path


# --- what is read


def test_safetensors(tiny_weights_file, tiny_state):
    assert holds(load(tiny_weights_file), tiny_state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: state | {"input_resolution": torch.tensor(32), "context_length": torch.tensor(77)},
    ],
)
def test_saved_state_dicts(tiny_state, tmp_path, wrap):
    torch.save(wrap(tiny_state), tmp_path / "weights.pth")
    assert holds(load(tmp_path / "weights.pth"), tiny_state)


def test_old_torch_save_format(tiny_state, tmp_path):
    torch.save(tiny_state, tmp_path / "weights.pt", _use_new_zipfile_serialization=False)
    assert holds(load(tmp_path / "weights.pt"), tiny_state)


def test_openais_archive(archive, half_state):
    state = read_state_dict(archive)
    assert {"input_resolution", "context_length", "vocab_size"} <= set(state)
    assert state["visual.proj"].dtype == torch.float16
    backbone = load(archive)
    assert backbone.dtype == torch.float32
    assert holds(backbone, half_state)


def test_the_files_shapes_decide_not_the_name(tiny_weights_file):
    backbone = load(tiny_weights_file, "RN50")
    assert backbone.name == "RN50"
    assert (backbone.is_vit, backbone.input_size, backbone.grid) == (True, 32, (4, 4))


def test_the_phantoms_sparse_form_goes_to_its_own_reader(tiny_state, half_state, tmp_path):
    path = tmp_path / "sparse.safetensors"
    ids = torch.tensor([3, 49406, 49407])
    rows = tiny_state["token_embedding.weight"][ids].half().float()
    sparse = without(half_state, "token_embedding.weight") | {"token_embedding.rows": rows, "token_embedding.ids": ids}
    save_state_dict(sparse, path, {"seed": "1", "vocab": "49408"})
    assert path.stat().st_size < 3_000_000
    for name in ("phantom", "ViT-B/16"):
        backbone = load(path, name)
        assert holds(backbone, half_state | {"token_embedding.weight": load_state_dict(path)["token_embedding.weight"]})
        assert torch.equal(backbone.embed(ids), rows)


def test_the_phantom_without_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("xcoop.backbones.phantom.pretrained_path", lambda: tmp_path / "phantom.safetensors")
    with pytest.raises(FileNotFoundError, match=r"phantom\.safetensors.*xcoop phantom pretrain"):
        load("", "phantom")


# --- how the model is built


def test_built_as_clip_builds_it(half_state):
    expected = import_clip().model.build_model(dict(half_state)).float()
    found = build_clip(half_state, "test")
    assert {name: value.shape for name, value in found.named_parameters()} == {
        name: value.shape for name, value in expected.named_parameters()
    }
    assert not found.training
    x, tokens = torch.randn(2, 3, 32, 32), import_clip().tokenize(["a nevus", "b"])
    assert torch.equal(found.encode_image(x), expected.encode_image(x))
    assert torch.equal(found.encode_text(tokens), expected.encode_text(tokens))


def test_fp32_weights_keep_all_their_digits(tiny_state):
    state = dict(tiny_state, logit_scale=torch.tensor(1.0 + 2**-20))
    assert build_clip(state, "test").logit_scale.item() == 1.0 + 2**-20


def test_the_given_weights_are_copied_not_shared(tiny_state):
    model = build_clip(tiny_state, "test")
    with torch.no_grad():
        model.logit_scale.fill_(7.0)
    assert tiny_state["logit_scale"].item() != 7.0


# --- what is refused


def test_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("~/absent.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match=rf"no weights file {tmp_path}"):
            load(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("new_format", [True, False])
def test_malicious_pickles_are_not_executed(tmp_path, new_format):
    path = tmp_path / "weights.pt"
    torch.save({"a": Exploit(str(tmp_path / "owned"))}, path, _use_new_zipfile_serialization=new_format)
    says = r"weights\.pt cannot be read as weights \(nothing in it was executed\): .*(io\.open|_io open)"
    with pytest.raises(ValueError, match=says) as caught:
        load(path)
    assert "weights_only" not in str(caught.value)  # torch's own message advises to load the file unsafely
    path.write_bytes(pickle.dumps(Exploit(str(tmp_path / "owned"))))
    with pytest.raises(ValueError, match=r"weights\.pt"):
        load(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_truncated_files(tiny_weights_file, archive, tiny_state, tmp_path, share):
    torch.save(tiny_state, tmp_path / "saved.pt")
    for whole in (tiny_weights_file, archive, tmp_path / "saved.pt"):
        content = whole.read_bytes()
        cut = tmp_path / f"cut{whole.suffix}"
        cut.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="cut"):
            load(cut)


@pytest.mark.parametrize("name", ["image.png", "weights.pt", "weights.safetensors", "archive.zip"])
def test_other_files(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20)
    if name.endswith("zip"):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=name):
        load(path)


def test_tar_files(tmp_path):
    (tmp_path / "pickle").write_bytes(b"x")
    with tarfile.open(tmp_path / "weights.pt", "w") as file:
        file.add(tmp_path / "pickle", "pickle")
    with pytest.raises(ValueError, match=r"weights\.pt is a tar file"):
        load(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1, 2], "holds no state dict, but list"),
        ({}, "holds no state dict"),
        ({"a": 1}, "entry 'a' is no tensor"),
        ({"state_dict": {"a": "b"}}, "entry 'a' is no tensor"),
        ({"layer.weight": torch.zeros(2)}, "no CLIP in OpenAI's layout: it lacks"),
    ],
)
def test_other_content(tmp_path, content, says):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=says) as caught:
        load(tmp_path / "weights.pt")
    assert str(tmp_path / "weights.pt") in str(caught.value)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\0" * (8 << 20))
    with pytest.raises(ValueError, match=r"bomb.pt .*bytes would unpack to 8,388,608"):
        read_state_dict(path)


def test_an_archive_with_a_broken_list_of_contents(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(2)}, path)
    whole = path.read_bytes()
    place = whole.index(b"PK\x01\x02")  # the first entry of the list
    path.write_bytes(whole[:place] + b"XXXX" + whole[place + 4 :])
    with pytest.raises(ValueError, match=r"weights.pt cannot be read as weights.*damaged zip archive"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (torch.full((64,), float("nan")), "finite"),
        (torch.full((64,), float("inf"), dtype=torch.float16), "finite"),
        (torch.cat([torch.zeros(63), torch.tensor([float("nan")])]), "finite"),
        (torch.full((64,), -float("inf"), dtype=torch.bfloat16), "finite"),
        (torch.full((64,), 1e39, dtype=torch.float64), "finite"),  # not in 32 bits, in which the model has it
        (torch.zeros(64, dtype=torch.complex64), "finite"),
        (torch.zeros(64, dtype=torch.int8), "finite"),
        (torch.zeros(64, device="meta"), "finite"),
        (torch.zeros(64).to_sparse(), "finite"),
        (torch.zeros(1).expand(10**12), "larger than what is stored"),
    ],
)
def test_weights_that_are_no_numbers_are_named(tiny_state, bad, says):
    with pytest.raises(ValueError, match=rf"some.pt: 'ln_final.bias' .*{says}"):
        build_clip(tiny_state | {"ln_final.bias": bad}, "some.pt")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_one_number_that_is_none_among_many(dtype):
    numbers = torch.linspace(-2, 2, 1001)
    assert is_finite(numbers.to(dtype))
    for place in (0, 500, 1000):
        bad = numbers.clone()
        bad[place] = float("nan")
        assert not is_finite(bad.to(dtype))
    assert is_finite(numbers[:0].to(dtype))


def test_a_tensor_of_the_file_is_let_go_when_its_copy_is_made(tiny_weights_file, monkeypatch):
    """Else all weights would be in memory twice."""
    state = {name: tensor.clone() for name, tensor in read_state_dict(tiny_weights_file).items()}
    there = [weakref.ref(tensor) for tensor in state.values()]
    counts, own = [], clip_model._own

    def counting(*given):
        counts.append(sum(tensor() is not None for tensor in there))
        return own(*given)

    monkeypatch.setattr(clip_model, "read_state_dict", lambda path: state)
    monkeypatch.setattr(clip_model, "_own", counting)
    read_clip(tiny_weights_file)
    assert counts == list(range(len(there), 0, -1))


def test_a_file_cannot_ask_for_a_mask_of_gigabytes(tiny_state):
    width = tiny_state["positional_embedding"].shape[1]
    with pytest.raises(ValueError, match=r"some\.pt: texts of 100000 tokens"):
        build_clip(tiny_state | {"positional_embedding": torch.zeros(100_000, width)}, "some.pt")


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: without(state, "ln_final.bias"), "ln_final.bias"),
        (lambda state: without(state, "text_projection"), "text_projection"),
        (lambda state: without(state, "visual.proj"), "it lacks 'visual.layer1.0.conv1.weight'"),
        (lambda state: state | {"head.weight": torch.zeros(2)}, "head.weight"),
        (lambda state: state | {"ln_final.bias": torch.zeros(2)}, "size mismatch for ln_final.bias"),
        (lambda state: state | {"visual.proj": torch.zeros(2)}, "visual.proj"),
        (lambda state: state | {"text_projection": torch.zeros(2)}, "dimension|index"),
    ],
)
def test_state_dicts_that_do_not_fit(tiny_state, change, says):
    with pytest.raises(ValueError, match=says) as caught:
        build_clip(change(tiny_state), "some.pt")
    assert str(caught.value).startswith("some.pt is no CLIP in OpenAI's layout: ")
    assert len(str(caught.value)) < 700


def test_weights_of_another_architecture_are_said_and_recorded_as_such(tiny_weights_file, caplog):
    holds = "ViT of 3 layers, width 128, patch 8, 32 pixels; text of 3 layers, width 64, 77 tokens; joint width 48"
    backbone = load(tiny_weights_file, "ViT-B/16")
    assert (backbone.architecture, backbone.fits_name) == (holds, False)
    (said,) = [record for record in caplog.records if record.levelname == "WARNING"]
    published = (
        "ViT of 12 layers, width 768, patch 16, 224 pixels; text of 12 layers, width 512, 77 tokens; joint width 512"
    )
    assert (
        f"NAME is ViT-B/16 ({published}), but {tiny_weights_file} holds another architecture ({holds})" in said.message
    )
    assert load(tiny_weights_file, "phantom").fits_name  # a name that stands for no published size


@pytest.mark.parametrize("name", ["RN50", "RN50x4", "ViT-B/16", "ViT-B/32", "ViT-L/14@336px"])
def test_the_published_sizes_fit_their_names(name):
    """Built on the meta device, by OpenAI's own constructor and the sizes of its paper."""
    layers, width, patch, pixels, joint, text = openai.PUBLISHED[name]
    with torch.device("meta"):
        sizes = (joint, pixels, layers, width, patch or None, 77, 49408, text, text // 64, 12)
        backbone = openai.ClipBackbone(name, import_clip().model.CLIP(*sizes))
    assert backbone.fits_name
    assert backbone.grid == ((pixels // (patch or 32),) * 2)
    if name == "ViT-B/16":
        assert sum(norm.numel() for norm in backbone.image_norms()) == 36_864
    backbone.name = "RN101"
    assert not backbone.fits_name


def test_a_changed_phantom_is_refused(tmp_path, monkeypatch):
    data = bytearray(pretrained_path().read_bytes())
    data[-1000] ^= 1
    (tmp_path / "phantom.safetensors").write_bytes(data)
    monkeypatch.setattr("xcoop.backbones.phantom.pretrained_path", lambda: tmp_path / "phantom.safetensors")
    with pytest.raises(ValueError, match=r"phantom\.safetensors is not the file that comes with xcoop"):
        load("", "phantom")
