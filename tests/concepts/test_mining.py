"""Mining: log-odds by hand, intervals that cover, the phantom's own table recovered, and why a majority is wrong."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from xcoop.commands.concepts_mine import CORRECTIONS, Observation, choose, mine
from xcoop.concepts.words import ABSENT, load_wording
from xcoop.evaluation.metrics import log_odds
from xcoop.phantom.tables import DERM_TABLE

VALUES, GIVEN = DERM_TABLE.values, DERM_TABLE.given

SHARES = {"MEL": 90, "NEV": 256}  # training images of Derm7pt's default task
Z = 1.959963984540054


def observed(classname: str, concept: str, counts: dict[str, int]) -> list[Observation]:
    return [Observation(classname, {concept: value}) for value, count in counts.items() for _ in range(count)]


def drawn(rng: np.random.Generator, sizes: dict[str, int]) -> list[Observation]:
    """Cases as the phantom draws them, without images: the concepts independently, by the table."""
    found = []
    for group, size in sizes.items():
        columns = {c: rng.choice(VALUES[c], size=size, p=GIVEN[group][c]) for c in VALUES}
        found += [Observation(group, {c: str(column[i]) for c, column in columns.items()}) for i in range(size)]
    return found


def truth(group: str, rest: dict[str, int], concept: str, value: str) -> float:
    """The log-odds in the table, group against a rest of that make-up."""
    index = VALUES[concept].index(value)
    p = GIVEN[group][concept][index]
    q = sum(size * GIVEN[other][concept][index] for other, size in rest.items()) / sum(rest.values())
    return math.log(p * (1 - q) / ((1 - p) * q))


def test_by_hand() -> None:
    """8 of 10 melanomas and 3 of 12 nevi: L = ln(8.5 * 9.5 / (2.5 * 3.5)) = 2.2223."""
    images = observed("mel", "streaks", {"irregular": 8, "absent": 2})
    images += observed("nev", "streaks", {"irregular": 3, "absent": 9})
    (mel, nev) = mine(images, ["mel", "nev"], [ABSENT])
    assert (mel.classname, mel.concept, mel.value) == ("mel", "streaks", "irregular")
    assert (mel.own, mel.own_total, mel.rest, mel.rest_total) == (8, 10, 3, 12)
    odds, error = math.log(8.5 * 9.5 / (2.5 * 3.5)), math.sqrt(1 / 8.5 + 1 / 2.5 + 1 / 3.5 + 1 / 9.5)
    assert mel.log_odds == pytest.approx(odds) == pytest.approx(2.2223, abs=1e-4)
    assert mel.error == pytest.approx(error) == pytest.approx(0.9532, abs=1e-4)
    assert (mel.low, mel.high) == pytest.approx((odds - Z * error, odds + Z * error))
    assert (nev.own, nev.rest) == (3, 8)
    assert (nev.log_odds, nev.low, nev.high) == pytest.approx((-mel.log_odds, -mel.high, -mel.low))
    assert {name: [one.value for one in own] for name, own in choose([mel, nev], 7).items()} == {
        "mel": ["irregular"], "nev": [],
    }  # fmt: skip


def test_counts_of_zero_stay_finite() -> None:
    odds, error = log_odds([0, 5, 0], [5, 0, 5], [5, 0, 0], [0, 5, 5])
    assert odds.tolist() == pytest.approx([-math.log(121), math.log(121), 0])
    assert np.isfinite(error).all()


def test_unknown_values_are_left_out_of_the_totals() -> None:
    images = observed("mel", "veil", {"present": 4, "absent": 1}) + [Observation("mel", {"streaks": "irregular"})] * 9
    images += observed("nev", "veil", {"present": 1, "absent": 5})
    veil = next(one for one in mine(images, ["mel", "nev"], [ABSENT]) if one.concept == "veil")
    assert (veil.own, veil.own_total, veil.rest, veil.rest_total) == (4, 5, 1, 6)


def test_three_classes_are_each_compared_with_all_others() -> None:
    images = observed("a", "x", {"red": 9, "blue": 1})
    images += observed("b", "x", {"red": 2, "blue": 8}) + observed("c", "x", {"red": 5, "blue": 5})
    found = {(one.classname, one.value): (one.own, one.rest, one.rest_total) for one in mine(images, list("abc"))}
    assert found["b", "blue"] == (8, 6, 20)
    assert found["c", "red"] == (5, 11, 20)


def test_corrections_by_hand() -> None:
    p_values = [0.001, 0.012, 0.02, 0.2, 0.9]  # at 0.05, three of five are below 0.05 * rank / 5
    assert CORRECTIONS["none"](0.05, p_values) == 0.05
    assert CORRECTIONS["bonferroni"](0.05, p_values) == pytest.approx(0.01)
    assert CORRECTIONS["fcr"](0.05, p_values) == pytest.approx(0.03)
    assert CORRECTIONS["fcr"](0.05, [0.5, 0.6]) == pytest.approx(0.025)


def test_a_correction_widens_by_the_number_of_questions() -> None:
    """Seven concepts with one finding each: of two classes seven questions, not fourteen."""
    images = [Observation("a", {f"c{n}": "present" for n in range(7)})] * 5
    images += [Observation("b", {f"c{n}": ABSENT for n in range(7)})] * 5
    plain, corrected = (mine(images, ["a", "b"], [ABSENT], correction=name)[0] for name in ("none", "bonferroni"))
    assert (plain.high - plain.log_odds) / plain.error == pytest.approx(1.95996, abs=1e-4)
    assert (corrected.high - corrected.log_odds) / corrected.error == pytest.approx(2.69011, abs=1e-4)  # 1 - 0.05 / 14


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"classes": ["mel", "nev", "bcc"]}, "'bcc'"),
        ({"classes": ["mel"]}, "'nev'"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    images = observed("mel", "x", {"a": 2}) + observed("nev", "x", {"b": 2})
    with pytest.raises(ValueError, match=message):
        mine(images, **{"classes": ["mel", "nev"], **change})  # type: ignore[arg-type]


def test_at_most_so_many_are_chosen_the_surest_first() -> None:
    images = [Observation("a", {f"c{n}": "present" for n in range(12)})] * 9
    images += [Observation("b", {f"c{n}": "present" if i < n // 4 else ABSENT for n in range(12)}) for i in range(9)]
    chosen = choose(mine(images, ["a", "b"], [ABSENT]), 5)
    assert [one.concept for one in chosen["a"]] == ["c0", "c1", "c2", "c3", "c4"]
    assert chosen["b"] == []


def coverage(simulations: int, sizes: dict[str, int], confidence: float = 0.95) -> dict[tuple[str, str], float]:
    """How often the interval of each value, melanoma against nevus, holds the table's own log-odds."""
    rng, z = np.random.default_rng(7), {0.95: Z, 0.8: 1.2815515655446004}[confidence]
    shares = {}
    for concept, values in VALUES.items():
        own, rest = (rng.multinomial(n, GIVEN[group][concept], size=simulations) for group, n in sizes.items())
        odds, error = log_odds(own, sizes["MEL"] - own, rest, sizes["NEV"] - rest)  # (simulations, values)
        for index, value in enumerate(values):
            true = truth("MEL", {"NEV": 1}, concept, value)
            shares[concept, value] = float(np.mean(np.abs(odds[:, index] - true) <= z * error[:, index]))
    return shares


def test_intervals_cover_as_often_as_they_say() -> None:
    """Each interval where at least 5 of each kind are expected; of rarer values they cover 92 to 100 %."""
    shares = coverage(4000, SHARES)
    usual = {
        key: share
        for key, share in shares.items()
        for p in [[GIVEN[group][key[0]][VALUES[key[0]].index(key[1])] for group in SHARES]]
        if min(min(n * q, n * (1 - q)) for n, q in zip(SHARES.values(), p, strict=True)) >= 5
    }
    assert len(usual) >= 12
    assert all(0.93 <= share <= 0.975 for share in usual.values()), usual
    assert 0.945 <= np.mean(list(usual.values())) <= 0.96
    assert min(shares.values()) >= 0.92, shares
    assert 0.95 <= np.mean(list(shares.values())) <= 0.965
    assert 0.78 <= np.mean([coverage(4000, SHARES, 0.8)[key] for key in usual]) <= 0.83


def test_the_phantoms_table_is_recovered() -> None:
    """Of all five groups as `mine` sees them, each against the rest, 95 of 100 intervals hold the table's value."""
    sizes = dict(zip(DERM_TABLE.given, (400, 350, 150, 150, 200), strict=True))
    hits = []
    for seed in range(4):
        for one in mine(drawn(np.random.default_rng(seed), sizes), list(sizes)):
            rest = {other: size for other, size in sizes.items() if other != one.classname}
            hits.append(one.low <= truth(one.classname, rest, one.concept, one.value) <= one.high)
    assert len(hits) == 4 * 5 * sum(map(len, VALUES.values()))
    assert 0.93 <= np.mean(hits) <= 0.985


def test_the_checklists_own_signs_are_mined_and_a_majority_rule_misses_them() -> None:
    wording = load_wording("derm7pt")
    raw = drawn(np.random.default_rng(1), SHARES)
    merged = [Observation(one.classname, wording.values(one.values, "merged")) for one in raw]
    chosen = choose(mine(merged, ["NEV", "MEL"], [ABSENT]), 7)
    words = {name: [wording.phrase(one.concept, one.value) for one in own] for name, own in chosen.items()}
    assert set(words["MEL"]) == {
        "irregular dots and globules", "irregular streaks", "atypical pigment network", "irregular pigmentation",
        "blue-whitish veil", "regression structures", "irregular vessels",
    }  # fmt: skip
    assert {"typical pigment network", "regular dots and globules", "regular pigmentation"} <= set(words["NEV"])
    assert not any(word.startswith(("irregular", "atypical", "no ")) for word in words["NEV"])

    def majority(classname: str, concept: str) -> str:
        return Counter(one.values[concept] for one in raw if one.classname == classname).most_common(1)[0][0]

    alike = [concept for concept in VALUES if majority("MEL", concept) == majority("NEV", concept)]
    assert {(concept, majority("MEL", concept)) for concept in alike} >= {
        ("blue_whitish_veil", ABSENT), ("regression_structures", ABSENT), ("vascular_structures", ABSENT),
    }, "the majority has no veil in both classes: the rule would say nothing of it"  # fmt: skip
