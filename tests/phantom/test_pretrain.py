"""The pretraining: its towers equal CLIP's, its loss knows all matches, it learns, and it goes on after a kill."""

import argparse
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from xcoop.backbones.clip_model import import_clip
from xcoop.backbones.phantom import load_state_dict, read_metadata
from xcoop.phantom import pretrain as pretrain_module
from xcoop.phantom import probe as probe_module
from xcoop.phantom.corpus import Sentences
from xcoop.phantom.model import Muon, PhantomClip, Settings, image_tokens, normalise, sincos_positions, text_features
from xcoop.phantom.pretrain import Pretraining, best_patches, contrastive_loss, matches, place_loss, pretrain

TINY = Settings(
    seed=2,
    steps=12,
    images=40,
    batch=12,
    captions=6,
    size=64,
    patch=8,
    vision_width=64,
    vision_layers=1,
    text_width=64,
    text_layers=1,
    joint_width=32,
    rate=3e-3,
    matrix_rate=9e-3,
    warmup=2,
)


@pytest.fixture(scope="module")
def clip():
    """Too small to know anything."""
    torch.manual_seed(1)
    return import_clip().model.CLIP(32, 64, 2, 64, 8, 77, 49408, 64, 1, 2).eval()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with the drawn images of `TINY`, so that no test draws them again."""
    folder = tmp_path_factory.mktemp("drawn")
    Pretraining(TINY, folder, "cpu")
    return folder


@pytest.fixture
def folder(drawn, tmp_path):
    for file in drawn.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def test_the_image_tower_equals_clips(clip):
    pixels = torch.randn(3, 3, 64, 64)
    features = image_tokens(clip.visual, pixels)[:, 0]
    torch.testing.assert_close(features, clip.encode_image(pixels), rtol=1e-4, atol=1e-5)


def test_the_cropped_text_tower_equals_clips(clip):
    tokens = import_clip().tokenize(["a photo of a nevus.", "streaks, globules and no veil"])
    features = text_features(clip, clip.token_embedding, tokens)
    torch.testing.assert_close(features, normalize(clip.encode_text(tokens), dim=-1), rtol=1e-4, atol=1e-5)


def test_normalise_is_clips():
    white = normalise(torch.ones(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(white, torch.tensor([1.9303, 2.0749, 2.1459]), atol=1e-4, rtol=0)


def test_a_sentence_matches_every_image_of_which_it_is_true():
    truth = torch.tensor([[1, 1, 0], [1, 0, 1], [1, 1, 1]]).bool()
    said = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0]]).bool()
    expected = [[True, False, True], [False, True, True], [True, True, True]]
    assert matches(said, truth).tolist() == expected


def test_the_loss_by_hand():
    """Two images; caption 0 is true of both, caption 1 only of its own; of the three phrases, two are rivals."""
    truth = torch.tensor([[True, False, True], [False, True, True]])
    said = Sentences(
        captions=torch.tensor([[False, False, True], [False, True, False]]),
        groups=torch.tensor([-1, -1]),
        rivals=torch.tensor([0, 0, -1]),
    )
    cosines = torch.tensor([[0.2, 0.4], [0.1, 0.7], [0.6, 0.3], [0.5, 0.9], [0.8, 0.2]])
    parts = contrastive_loss(cosines, torch.tensor(2.0), truth, torch.tensor([-1, -1]), said)
    logits = 2 * cosines.double().numpy()

    def nll(row, targets):
        logs = row - np.log(np.exp(row).sum())
        return -np.mean([logs[t] for t in targets])

    to_image = (nll(logits[0], [0, 1]) + nll(logits[1], [1])) / 2
    to_caption = (nll(logits[:2, 0], [0]) + nll(logits[:2, 1], [0, 1])) / 2
    assert float(parts["captions"]) == pytest.approx((to_image + to_caption) / 2, abs=1e-6)
    phrases = (nll(logits[2], [0]) + nll(logits[3], [1]) + nll(logits[4], [0, 1])) / 3
    values = (nll(logits[2:4, 0], [0]) + nll(logits[2:4, 1], [1])) / 2
    assert float(parts["phrases"]) == pytest.approx(phrases, abs=1e-6)
    assert float(parts["values"]) == pytest.approx(values, abs=1e-6)


def test_a_caption_with_a_diagnosis_matches_its_group_alone():
    truth = torch.ones(3, 1, dtype=torch.bool)
    groups = torch.tensor([1, 1, 0])
    said = Sentences(torch.ones(3, 1, dtype=torch.bool), torch.tensor([1, -1, -1]), torch.tensor([0]))
    near = torch.zeros(4, 3)
    near[0, 2] = 1.0  # the caption that names group 1 beside the image of group 0: wrong, so it must cost
    far = torch.zeros(4, 3)
    far[0, 1] = 1.0
    scale = torch.tensor(10.0)
    wrong = contrastive_loss(near, scale, truth, groups, said)["captions"]
    assert wrong > contrastive_loss(far, scale, truth, groups, said)["captions"]


def test_the_best_patches_are_a_smooth_maximum():
    text = torch.tensor([[1.0, 0.0]])
    patches = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])  # a match somewhere, and nowhere
    soft = best_patches(text, patches, sharpness=10.0)
    assert soft.shape == (1, 2)
    assert soft[0].tolist() == pytest.approx([np.log((np.exp(10) + 1) / 2) / 10, 0.0], abs=1e-6)
    assert best_patches(text, patches, sharpness=1000.0)[0].tolist() == pytest.approx([1.0, 0.0], abs=1e-3)


def test_a_patch_is_asked_for_what_lies_in_it():
    """Two patches, the concept in one: by hand, the mean of both patches' losses; more empty patches change nothing."""
    logits = torch.tensor([[[1.0, 2.0, 0.5], [0.0, 1.0, 0.0]]])
    value, covered = torch.tensor([2]), torch.tensor([[True, False]])
    rows = logits.double().numpy()[0]
    inside = np.log(np.exp(rows[0]).sum()) - rows[0, 2]
    outside = np.log(np.exp(rows[1]).sum()) - rows[1, 0]
    assert float(place_loss(logits, value, covered)) == pytest.approx((inside + outside) / 2, abs=1e-6)
    more = torch.cat([logits, logits[:, 1:].expand(1, 5, 3)], dim=1)
    wider = torch.cat([covered, torch.zeros(1, 5, dtype=torch.bool)], dim=1)
    assert float(place_loss(more, value, wider)) == pytest.approx((inside + outside) / 2, abs=1e-6)


def test_a_step_of_muon_is_orthogonal_and_each_of_query_key_and_value_has_its_own():
    generator = torch.Generator().manual_seed(0)
    packed, tall = (torch.randn(shape, generator=generator).requires_grad_() for shape in ((96, 32), (64, 16)))
    before = [packed.detach().clone(), tall.detach().clone()]
    (packed.square().sum() + (3 * tall).square().sum()).backward()
    Muon([packed, tall], lr=0.1).step()
    moved = [old - new.detach() for old, new in zip(before, (packed, tall), strict=True)]
    for part in (*moved[0].chunk(3), moved[1]):
        scale = 0.2 * 0.1 * max(part.shape) ** 0.5
        values = torch.linalg.svdvals(part) / scale
        assert float(values.median()) == pytest.approx(0.9, abs=0.2)
        assert float(values.min()) > 0.3  # a gradient's own are spread a thousandfold
        assert float(values.max()) < 1.3


def test_positions_of_near_patches_are_alike():
    waves = sincos_positions(8, 64)
    assert waves.shape == (64, 64)
    here = waves[3 * 8 + 3]
    nearness = [float(here @ waves[3 * 8 + column]) for column in range(3, 8)]
    assert nearness == sorted(nearness, reverse=True)


@pytest.mark.parametrize(
    ("shares", "part", "share"),
    [((1.0, 0.0), "heads", 0.99), ((1.0, 0.0), "places", 0.95), ((0.0, 0.0), "values", 0.95)],
)
def test_a_few_steps_lower_the_loss(folder, shares, part, share):
    see, speak = shares
    run = Pretraining(replace(TINY, steps=1000, warmup=1, see=see, speak=speak), folder, "cpu")
    losses = [run.train_step()[part] for _ in range(24)]
    assert np.mean(losses[-6:]) < share * np.mean(losses[:6])


def test_first_only_the_image_tower_learns_then_only_the_text_tower_then_both(folder):
    run = Pretraining(replace(TINY, steps=10, see=0.4, speak=0.4), folder, "cpu")
    seen = []
    while run.progress < 1:
        before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
        stage = run.stage
        run.train_step()
        changed = {name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, before[name])}
        image = any(name.startswith("clip.visual") for name in changed)
        seen.append((stage, image, "rows" in changed))
    assert seen == [("see", True, False)] * 4 + [("speak", False, True)] * 4 + [("both", True, True)] * 2


def test_whitened_patches_are_uncorrelated_and_equally_loud():
    model = PhantomClip(replace(TINY, vision_width=192))
    pixels = torch.rand(64, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pixels = pixels + 2 * pixels.mean(dim=(2, 3), keepdim=True)
    model.whiten(pixels, floor=0.0)
    out = model.clip.visual.conv1(pixels).flatten(2).transpose(1, 2).flatten(0, 1)  # (N, W)
    torch.testing.assert_close(out.T @ out / len(out), torch.eye(192), atol=1e-2, rtol=0)


def test_a_resumed_run_ends_bit_identical_through_all_stages(folder):
    straight = Pretraining(TINY, folder, "cpu")
    stages = set()
    while straight.progress < 1:
        stages.add(straight.stage)
        straight.train_step()
    assert stages == {"see", "speak", "both"}
    for stop in (4, 9, 12):
        run = Pretraining(TINY, folder, "cpu")
        while run.step < stop:
            run.train_step()
        run.save()
    resumed = Pretraining(TINY, folder, "cpu")
    assert resumed.step == 12
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_other_settings_do_not_take_up_a_checkpoint(folder):
    Pretraining(TINY, folder, "cpu").save()
    with pytest.raises(ValueError, match=r"checkpoint\.pt was made with"):
        Pretraining(replace(TINY, rate=1.0), folder, "cpu")


def test_a_loss_that_is_not_a_number_ends_the_run(folder):
    run = Pretraining(TINY, folder, "cpu")
    with torch.no_grad():
        run.model.clip.visual.proj.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="step 0"):
        run.train_step()


def test_the_options_reach_the_run_and_its_defaults_are_the_settings_own(monkeypatch):
    parser = argparse.ArgumentParser()
    pretrain_module.add_arguments(parser)
    calls = []
    monkeypatch.setattr(pretrain_module, "pretrain", lambda *given, **named: calls.append((given, named)) or {})
    assert pretrain_module.run(parser.parse_args(["--out", "a.safetensors"])) == 0
    assert pretrain_module.run(parser.parse_args(["--out", "b", "--seed", "5", "--steps", "7", "--images", "9"])) == 0
    assert [given[:2] for given, _ in calls] == [
        ("a.safetensors", Settings()),
        ("b", Settings(seed=5, steps=7, images=9)),
    ]


def test_a_pretraining_writes_weights_that_clip_takes(folder, tmp_path, capsys):
    out = tmp_path / "out" / "tiny.safetensors"
    pretrain(out, replace(TINY, steps=2), folder, check_every=1, device="cpu")
    model = import_clip().model.build_model(load_state_dict(out))
    assert model.visual.input_resolution == 64
    assert read_metadata(out)["steps"] == "2"
    assert "mean concept AUC" in capsys.readouterr().out


def test_the_model_in_training_is_asked_as_it_stands(folder):
    run = Pretraining(TINY, folder, "cpu")
    for _ in range(TINY.steps):
        run.train_step()
    backbone, model = run.model.backbone(), run.model
    texts = ["a skin lesion with streaks", "a word that no caption has"]
    torch.testing.assert_close(normalize(backbone.encode_text(texts[:1]), dim=-1), model.encode_texts(texts[:1]))
    assert (backbone.embed(backbone.tokenize(texts[1:])) != 0).any(dim=2).all()
    pixels = torch.randn(2, 3, 64, 64)
    tokens = image_tokens(model.clip.visual, pixels)
    torch.testing.assert_close(backbone.encode_image(pixels, patches=True).patches, tokens[:, 1:], rtol=1e-4, atol=1e-5)


def test_the_card_says_how_the_weights_were_made_and_what_they_score(folder, tmp_path, capsys):
    out, card = tmp_path / "tiny.safetensors", tmp_path / "CARD.md"
    pretrain(out, replace(TINY, steps=1, minutes=5.0), folder, device="cpu")
    parser = argparse.ArgumentParser()
    probe_module.add_arguments(parser)
    options = ["--weights", str(out), "--cases", "40", "--card", str(card), "--machine", "one abacus"]
    assert probe_module.run(parser.parse_args(options)) == 0
    text = card.read_text()
    for part in (
        "--seed 2 --steps 1 ",
        "--images 40 --batch 12 --minutes 5\n",
        "one abacus",
        "| vision | width 64, 1 layers |",
        "50% dermoscopic",
    ):
        assert part in text
    printed = capsys.readouterr().out
    for row in ("derm: streaks=irregular", "chest: cardiomegaly=present", "nevus / melanoma", "normal / pneumonia"):
        assert f"| {row} |" in text
        assert f"| {row} |" in printed
