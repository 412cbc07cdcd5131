"""What every trainer must do, whoever wrote it: a new file in `trainers/` is tested by being there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from dassl.engine import TRAINER_REGISTRY
from helpers_clip import tiny_clip_state
from safetensors.torch import save_file
from tiny_run import ConfigMaker, Usual

from xcoop.backbones.openai import ClipBackbone
from xcoop.concepts import load_bank
from xcoop.config.plugins import trainer_names, trains
from xcoop.explain.exact import ExactConcepts
from xcoop.results.record import read_run
from xcoop.runs.plan import make_plans

TRAINERS = trainer_names()
LEARNING = [name for name in TRAINERS if trains(name)]


@pytest.mark.parametrize("name", LEARNING)
def test_a_training_leaves_a_small_checkpoint_that_gives_the_same_logits(
    name: str, make_cfg: ConfigMaker, usual: Usual
) -> None:
    """Of two epochs; of none for methods that are fitted at once."""
    trainer = usual(name).trainer
    epochs = 2 if trainer.optim else 0
    content = tiny_run.stored(trainer, epochs)
    own = trainer.model.state_tensors()
    assert Path(trainer.output_dir, "prompt_learner", f"model.pth.tar-{epochs}").stat().st_size < 1 << 20
    assert content["epoch"] == content["max_epoch"] == epochs
    _same(content["state_dict"], own, "")

    other = tiny_run.build(make_cfg(name))
    assert not torch.equal(tiny_run.logits(other), tiny_run.logits(trainer))
    other.load_model(trainer.output_dir, epoch=epochs)
    assert torch.equal(tiny_run.logits(other), tiny_run.logits(trainer))
    other.test()  # and it predicts what the run has recorded
    tables = [Path(one.output_dir, "predictions.csv").read_text() for one in (trainer, other)]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("name", LEARNING)
def test_what_is_trained_has_gradients_and_moves_and_nothing_else_does(name: str, usual: Usual) -> None:
    made = usual(name)
    model, optimiser = made.trainer.model, made.trainer.optim
    for key, tensor in model.trained_state().items():
        assert key in model.kept or not torch.equal(tensor, made.started[key]), key
    learned = {id(tensor) for tensor in model.state_tensors().values()}
    for key, tensor in model.state_dict(keep_vars=True).items():
        assert id(tensor) in learned or torch.equal(tensor, made.before[key]), key
    grouped = {id(p) for group in optimiser.param_groups for p in group["params"]} if optimiser else set()
    assert {id(p) for p in model.trained_parameters().values()} == grouped
    for key, parameter in model.named_parameters():
        if id(parameter) in grouped:
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() > 0, key
        else:
            assert parameter.grad is None, key
            assert not parameter.requires_grad, key


@pytest.mark.parametrize("name", TRAINERS)
def test_logits_of_an_image_do_not_depend_on_the_batch(name: str, usual: Usual) -> None:
    trainer = usual(name).trainer
    if trainer.model.mixes_batches:
        pytest.skip("its images leak into one another")
    images = torch.cat([batch["img"] for batch in trainer.dm.test_loader])
    trainer.set_model_mode("eval")
    with torch.no_grad():
        together = trainer.model(images)
        alone = torch.cat([trainer.model(image[None]) for image in images])
        backwards = trainer.model(images.flip(0)).flip(0)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(together, backwards, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", TRAINERS)
def test_logits_of_a_model_that_stays_as_it_is(name: str, usual: Usual) -> None:
    model = usual(name).trainer.model
    images = next(iter(usual(name).trainer.dm.test_loader))["img"]
    with torch.no_grad():
        features = model.encode_images(images)
        assert torch.equal(model.fixed_logits()(features), model.logits(features))


@pytest.mark.parametrize(
    ("name", "augment"), [*((name, False) for name in LEARNING), ("CoOp", True), ("PromptSRC", True), ("XCoOp", True)]
)
def test_resumed_is_uninterrupted_bit_for_bit(name: str, augment: bool, make_cfg: ConfigMaker) -> None:
    """Stopped inside the third epoch of four; with augmentation, every image depends on the random state, too."""
    tfm = ["random_flip", "random_resized_crop", "normalize"] if augment else ["normalize"]
    pairs = ("OPTIM.MAX_EPOCH", 4, "INPUT.TRANSFORMS", tfm)
    stopped = tiny_run.build(make_cfg(name, *pairs, output="stopped"))
    if stopped.optim is None:
        pytest.skip("fitted at once, without epochs")
    tiny_run.stop_in_the_third_epoch(stopped)
    whole = tiny_run.trained(make_cfg(name, *pairs))
    torch.rand(17)  # whatever happens in between
    resumed = tiny_run.trained(make_cfg(name, *pairs, output="stopped"))
    assert resumed.start_epoch == 2
    _same(tiny_run.stored(resumed, 4), tiny_run.stored(whole, 4), "")
    assert torch.equal(tiny_run.logits(resumed), tiny_run.logits(whole))


@pytest.mark.parametrize("name", LEARNING)
def test_frozen_weights_are_cast_once_and_change_nothing(
    name: str, make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs in bf16, beside plain autocast."""
    if "PREC" not in tiny_run.build(make_cfg(name)).settings:
        pytest.skip("fitted at once, without epochs")
    key = (f"TRAINER.{name.upper()}.PREC", "bf16")
    own = tiny_run.trained(make_cfg(name, *key))
    monkeypatch.setattr(ClipBackbone, "held_in", lambda self, _: self)
    plain = tiny_run.trained(make_cfg(name, *key, output="plain"))
    _same(own.model.trained_state(), plain.model.trained_state(), "")


@pytest.mark.parametrize("name", LEARNING)
def test_what_was_fitted_is_not_fitted_again(
    name: str, make_cfg: ConfigMaker, usual: Usual, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before the test: the run goes on from its checkpoint."""
    if not usual(name).trainer.model.fitted:
        pytest.skip("it is not fitted")
    stopped = tiny_run.build(make_cfg(name))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(stopped), "test", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    monkeypatch.undo()
    resumed = tiny_run.build(make_cfg(name))
    monkeypatch.setattr(type(resumed.model), "prepare", interrupted)
    resumed.train()
    _same(resumed.model.trained_state(), stopped.model.trained_state(), "")
    assert read_run(Path(resumed.output_dir)) is not None


@pytest.mark.parametrize("name", TRAINERS)
def test_the_record_of_the_run(name: str, usual: Usual) -> None:
    trainer = usual(name).trainer
    results = read_run(Path(trainer.output_dir))
    assert results is not None
    assert results["n_test"] == 2 * tiny_run.SPLITS["test"]
    assert results["seconds"].keys() == {"build", "features", "train", "test"}
    assert all(seconds >= 0 for seconds in results["seconds"].values())
    assert results["seconds"]["build"] > 0
    assert results["backbone_sha256"] == trainer.backbone.fingerprint()
    model = trainer.model
    expected = sum(parameter.numel() for parameter in model.trained_parameters().values())
    expected += sum(getattr(model, name).numel() for name in {*model.fitted} - {*model.kept, "keys", "values"})
    assert results["trained_parameters"] == expected
    assert bool(results["trained_parameters"]) is (name != "ZeroshotCLIP")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with a small ResNet for their image tower."""
    path = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    save_file(tiny_clip_state(vision="resnet"), path)
    return path


@pytest.mark.parametrize("name", TRAINERS)
def test_with_a_resnet_it_trains_or_says_that_it_cannot(name: str, make_cfg: ConfigMaker, resnet: Path) -> None:
    size = ("INPUT.SIZE", [64, 64], "OPTIM.MAX_EPOCH", 1)
    cfg = make_cfg(name, "MODEL.BACKBONE.NAME", "RN50", "MODEL.BACKBONE.PATH", str(resnet), *size)
    if TRAINER_REGISTRY.get(name).needs_vit:
        with pytest.raises(ValueError, match=f"^{name} works inside .* RN50 has a ResNet .* choose a ViT"):
            tiny_run.build(cfg)
        return
    trainer = tiny_run.trained(cfg)
    assert all(torch.isfinite(rows).all() for rows in trainer._probabilities)


@pytest.mark.parametrize("name", TRAINERS)
def test_what_explanations_and_sweeps_ask_of_a_method(name: str, usual: Usual, tmp_path: Path) -> None:
    """A prompt where contexts are trained, said to be learned just where training changes it; the same for classes."""
    made = usual(name)
    model = made.trainer.model
    assert made.text.shape[-2:] == (len(tiny_run.NAMES), model.backbone.embed_dim)
    assert made.text.dim() in (2, 3)
    noun, learned, about = model.class_vector
    assert learned != torch.equal(model.text_features(), made.text)
    assert (noun == "prompt") == any("ctx" in key or key == "words" for key in model.trained_parameters())
    told = "labelled images let" in about  # XCoOp alone has something to say of its prompts: how far they may move
    assert told == (name == "XCoOp")
    assert (noun == "prompt") == (told or not about)
    assert TRAINER_REGISTRY.get(name).learns_classes(made.trainer.cfg) == model.class_specific
    if trains(name):  # without epochs, too
        (plan,) = make_plans(["phantom", "4", name], "data", str(tmp_path), [1, 2])
        assert (plan.shots, plan.seeds) == (4, (1, 2))


@pytest.mark.parametrize("name", TRAINERS)
@torch.no_grad()
def test_a_logit_is_the_sum_over_concepts_that_a_method_says_it_is(name: str, usual: Usual) -> None:
    """Also as explanations take it; a method that says nothing has no such sum."""
    trainer = usual(name).trainer
    model, test = trainer.model, torch.cat([batch["img"] for batch in trainer.dm.test_loader])
    features = model.encode_images(test)
    if not model.sums_concepts:
        assert model.told == []
        assert model.usual is None
        with pytest.raises(ValueError, match="are no sums over concepts"):
            model.prompt_sum(features)
        return
    bank = load_bank(trainer.dm.dataset.concept_bank).for_classes(tiny_run.NAMES)
    held = ExactConcepts(model, list(dict.fromkeys(told.concept for told in model.told)), bank)
    logits, found, (parts, base) = model(test).double(), model.prompt_sum(features), held.parts(features)
    assert found.parts.shape == parts.shape == (len(test), len(model.told))
    assert parts.abs().max() > 1e-3
    labels = torch.tensor([told.label for told in model.told])
    limit = 1e-5 * (logits.abs() / 100).clamp(min=1)  # a logit of 1,000, as LaBo has here, is rounded to 6e-5
    for terms, start in ((found.parts.double(), found.offsets.double()), (parts, base)):
        sums = start.repeat(len(test), 1).index_add(1, labels, terms)
        assert ((sums - logits).abs() < limit).all()
    training = trainer._training()  # as many images of each class: measured against them, no concept adds anything
    assert held.parts(training.features)[0].mean(0).abs().max() < 1e-4
    deviations = held.deviations(training.features)
    assert deviations is not None
    assert (deviations.square().mean(0).sqrt() - 1).abs().max() < 0.01


# Settings that cannot work, refused before anything is loaded.

REFUSED = [
    ("BiomedCoOp", "N_PROMPTS", 0, "at least 1"),
    ("BiomedCoOp", "TAU", 0.0, "above 0"),
    ("BiomedCoOp", "SCCM_LAMBDA", -1.0, "of at least 0"),
    ("CLIPAdapter", "RATIO", 1.2, r"is 1.2; it must be a number in \(0, 1\]"),
    ("CLIPAdapter", "REDUCTION", 0, "is 0; it must be a whole number of at least 1"),
    ("TipAdapter", "SEARCH_STEP", [200], r"is \[200\]; .* must be a list of 2 values"),
    ("TipAdapterF", "SEARCH_STEP", [5, 0], "is 0; it must be a whole number of at least 1"),
    ("TipAdapter", "ENSEMBLE", "template", "Did you mean 'templates'"),
    ("TipAdapter", "TEMPLATES", ["a {}", "a thing"], "is 'a thing'; it must be a sentence with {} for"),
    ("ZeroshotCLIP", "TEMPLATE", "a thing", "is 'a thing'; it must be a sentence with {} for"),
    ("LPPlusPlus", "ALPHA_EVERY", 0, "is 0; it must be a whole number of at least 1"),
    ("LaBo", "INIT", -0.1, "of at least 0"),
    ("LaBo", "SCALE", 0.0, "above 0"),
    ("PCBM", "LAMBDA", 0.0, "above 0"),
    ("PCBM", "L1_RATIO", 0.0, r"in \(0, 1\]"),
    ("PCBM", "KNOWLEDGE", "shufled", "Did you mean 'shuffled'"),
    ("TaskRes", "RESIDUAL_SCALE", 0.0, "is 0.0; it must be a number above 0"),
    ("KgCoOp", "W", -1.0, "of at least 0"),
    ("KgCoOp", "TEMPLATE", "a scan.", "with {} for"),
    ("ProGrad", "LAMBDA", 1.5, r"a number in \[0, 1\]"),
    ("ProGrad", "T", 0.0, "above 0"),
    ("LASP", "N_GROUPS", 0, "at least 1"),
    ("LASP", "N_GROUPS", 99, "each group needs"),
    ("LASP", "LASP_PROMPTS", ["a"], "with {} for"),
    ("MaPLe", "PROMPT_DEPTH", 0, "is 0; .*at least 1"),
    ("MaPLe", "N_CTX", 0, r"is 0; .*in \[1, 1000\]"),
    ("CLIPLoRA", "R", 0, "is 0; it must be a whole number of at least 1"),
    ("CLIPLoRA", "DROPOUT", 1.0, r"is 1.0; it must be a number in \[0, 1\)"),
    ("PromptSRC", "PROMPT_DEPTH_TEXT", 0, "at least 1"),
    ("PromptSRC", "PROMPT_DEPTH_VISION", -1, "at least 0"),
    ("PromptSRC", "GPA_STD", 0.0, "above 0"),
    ("XCoOp", "KNOWLEDGE", "randm", "Unknown value 'randm'. Did you mean 'random'"),
    ("CoOp", "PREC", "fp8", r"Unknown value 'fp8'. Did you mean 'fp32'\? Known: amp, auto, bf16, fp16, fp32"),
]


@pytest.mark.parametrize(("name", "key", "value", "message"), REFUSED)
def test_settings_that_cannot_work_are_refused(
    name: str, key: str, value: object, message: str, make_cfg: ConfigMaker
) -> None:
    key = f"TRAINER.{name.upper()}.{key}"
    with pytest.raises(ValueError, match=rf"{key}:? .*{message}"):
        tiny_run.build(make_cfg(name, key, value, "MODEL.BACKBONE.PATH", "/no/such/file"))


def test_clinical_sentences_are_not_averaged_with_templates(make_cfg: ConfigMaker) -> None:
    keys = ("TRAINER.TIPADAPTER.ENSEMBLE", "templates", "TRAINER.TIPADAPTER.CLINICAL", True)
    with pytest.raises(ValueError, match="choose one"):
        tiny_run.build(make_cfg("TipAdapter", *keys))


# Methods that are CoOp and something more: without it they are CoOp.


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("BiomedCoOp", {"SCCM_LAMBDA": 0.0, "KDSP_LAMBDA": 0.0, "N_CTX": 16, "CTX_INIT": ""}),
        ("KgCoOp", {"W": 0.0, "N_CTX": 16, "CTX_INIT": ""}),
        ("ProGrad", {"LAMBDA": 0.0, "CTX_INIT": ""}),
    ],
)
def test_without_its_own_part_it_is_coop_bit_for_bit(
    name: str, keys: dict[str, object], make_cfg: ConfigMaker, usual: Usual
) -> None:
    pairs = [part for key, value in keys.items() for part in (f"TRAINER.{name.upper()}.{key}", value)]
    ours = tiny_run.trained(make_cfg(name, *pairs))
    assert torch.equal(ours.model.trained_state()["ctx"], usual("CoOp").trainer.model.trained_state()["ctx"])


def _same(ours: object, theirs: Any, where: str) -> None:
    """Bit for bit, down to the last value."""
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            _same(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            _same(one, other, f"{where}/{i}")
    else:
        assert ours == theirs, where
