"""Devices beside printed values, sums over pair numbers, sampling and the ideal link that they tend to."""

import dataclasses
import math
from math import comb, inf

import numpy as np
import pytest
import torch

from caligo.errors import InvalidArgument
from caligo.physics import detection, finite_key
from caligo.physics.arrays import NUMPY, Arrays
from caligo.physics.claims import CLAIMS, Counts
from caligo.physics.device import Device, known_rounds, law, look_back, parametric, rates_of_runs, rotation
from caligo.physics.prediction import predict
from caligo.space import PRESETS, Space
from caligo.spec import CampaignSpec, DeviceSpec, PhysicsSpec, from_proto, to_proto, validate
from caligo.v1 import types_pb2

# mu, K, eta_A, eta_B, wrong port, dark; P(round), P_click, Q, doubles a click, P(n > 1): derived by direct sums.
SOURCES = [
    (3.145e-5, 1, 0.015, 0.015, 0.0093, 1.5e-8, 5.017498e-7, 1.410385e-2, 0.009317, 2.5168e-7, 4.39094e-5),
    (0.01, 1, 0.3, 0.1, 0.01, 1e-6, 2.993011e-3, 0.1010131, 0.013228, 3.5912e-4, 1.18857e-2),
    (0.01, inf, 0.3, 0.1, 0.01, 1e-6, 2.995249e-3, 0.1006325, 0.013246, 3.5131e-4, 7.71502e-3),
    (0.1, 1, 0.3, 0.1, 0.01, 1e-6, 2.912176e-2, 0.1106167, 0.038816, 3.4370e-3, 0.110046),
    (0.1, 4, 0.3, 0.1, 0.01, 1e-6, 2.928109e-2, 0.1078701, 0.039963, 3.4141e-3, 8.37593e-2),
    (0.1, inf, 0.3, 0.1, 0.01, 1e-6, 2.933472e-2, 0.1069448, 0.040363, 3.4065e-3, 7.45769e-2),
    (0.1, 1, 0.8, 0.5, 0.01, 1e-4, 7.414199e-2, 0.5156837, 0.016903, 5.3444e-3, 6.55102e-2),
    (0.1, inf, 0.8, 0.5, 0.01, 1e-4, 7.552326e-2, 0.5088013, 0.017318, 5.2570e-3, 3.91791e-2),
]
LINK = {"fidelity": 0.98, "efficiency": 0.1, "detector_error": 0.01, "dark_count_prob": 1e-5}
TORCH = Arrays(torch, torch.special)


def source(mu: float, modes: float, eta_a: float, dark: float) -> Device:
    return Device(mean_pairs=mu, leaking_pairs=mu, modes=modes, alice_efficiency=eta_a, alice_dark=dark)


@pytest.mark.parametrize(
    ("mu", "modes", "eta_a", "eta_b", "wrong", "dark", "rounds", "click", "q", "twice", "more"), SOURCES
)
def test_parametric_source(mu, modes, eta_a, eta_b, wrong, dark, rounds, click, q, twice, more) -> None:
    found = parametric(source(mu, modes, eta_a, dark), np.float64(eta_b), wrong, np.float64(dark))
    expected = (rounds, click, q, twice, more)
    np.testing.assert_allclose([float(value) for value in found], expected, rtol=5e-5)


@pytest.mark.parametrize("modes", [1, 2, 5])
def test_parametric_source_is_the_sum_over_photon_numbers(modes) -> None:
    """Every photon for itself, its port and its detection, enumerated up to numbers that no longer count."""
    mu, eta_a, eta_b, wrong, dark_a, dark_b = 0.2, 0.4, 0.3, 0.06, 2e-3, 1e-3
    x = mu / (2 * modes)
    number = [comb(n + modes - 1, n) * x**n / (1 + x) ** (n + modes) for n in range(14)]
    rounds = clicked = errors = several = 0.0
    for n_0, p_0 in enumerate(number):
        for n_1, p_1 in enumerate(number):
            silent = [(1 - dark_a) * (1 - eta_a) ** n for n in (n_0, n_1)]
            here = p_0 * p_1 * (1 - silent[0]) * silent[1]  # Alice's bit is 0
            # Photons of her port 0 go to Bob's 0 but for the wrong port, and of her port 1 to his 1.
            to_0 = (1 - eta_b * (1 - wrong)) ** n_0 * (1 - eta_b * wrong) ** n_1 * (1 - dark_b)
            to_1 = (1 - eta_b * wrong) ** n_0 * (1 - eta_b * (1 - wrong)) ** n_1 * (1 - dark_b)
            neither = (1 - eta_b) ** (n_0 + n_1) * (1 - dark_b) ** 2
            right, mistaken = to_1 - neither, to_0 - neither
            both = 1.0 - to_0 - to_1 + neither
            rounds += 2.0 * here
            clicked += 2.0 * here * (1.0 - neither)
            errors += 2.0 * here * (mistaken + 0.5 * both)
            several += 2.0 * here * (n_0 + n_1 > 1)
            assert right >= -1e-15
    found = parametric(source(mu, modes, eta_a, dark_a), np.float64(eta_b), wrong, np.float64(dark_b))
    expected = (rounds, clicked / rounds, errors / clicked, several / rounds)
    np.testing.assert_allclose([found.round, found.click, found.error, found.several], expected, rtol=1e-8)


def test_few_pairs_add_errors_in_proportion() -> None:
    """Q rises by (mu/2)(1-eta_A)(1-eta_B/2)(1-2 wrong), whatever the number of modes."""
    eta_a, eta_b, wrong = 0.3, 0.1, 0.01
    for modes in (1, 3, inf):
        low, high = (parametric(source(mu, modes, eta_a, 0.0), np.float64(eta_b), wrong, 0.0) for mu in (1e-7, 2e-5))
        slope = 0.5 * (1 - eta_a) * (1 - 0.5 * eta_b) * (1 - 2 * wrong)
        assert (high.error - low.error) / (2e-5 - 1e-7) == pytest.approx(slope, rel=1e-3)
        share = 0.5 * ((1 + 1 / modes) * (1 - 0.5 * eta_a) + 1 - eta_a)
        assert high.several / 2e-5 == pytest.approx(share, rel=1e-3)


@pytest.mark.parametrize(
    ("drift", "amplitude", "mean", "sd"),
    [
        ("sine", 0.05, 0.001249, 0.000883),
        ("sine", 0.1, 0.004988, 0.003524),
        ("sine", 0.2, 0.019801, 0.013955),
        ("walk", 0.05, 0.001248, None),
        ("walk", 0.1, 0.004967, None),
        ("walk", 0.2, 0.019477, None),
    ],
)
def test_drift(drift, amplitude, mean, sd) -> None:
    """Of a run that is short against the sinusoid, or as long as the walk is told for."""
    device = Device(drift=drift, drift_amplitude=amplitude, drift_period=1e12)
    rounds = 1.0 if drift == "sine" else 1e12
    found = rotation(device, rounds)
    assert float(found[0]) == pytest.approx(mean, abs=6e-7)
    if sd is not None:
        assert float(found[1]) == pytest.approx(sd, abs=6e-7)


def test_drift_of_sampled_runs() -> None:
    rng = np.random.default_rng(1)
    steps, runs = 200, 40_000
    for end in (0.05, 0.3, 0.8):
        walk = np.cumsum(end / math.sqrt(steps) * rng.standard_normal((runs, steps)), axis=1)
        sampled = (np.sin(walk) ** 2).mean(axis=1)
        mean, sd = rotation(Device(drift="walk", drift_amplitude=end, drift_period=1.0), 1.0)
        assert float(mean) == pytest.approx(sampled.mean(), rel=0.03)
        assert float(sd) == pytest.approx(sampled.std(), rel=0.03)
    for length in (0.1, 0.3, 0.7):  # of a period
        phase = 2 * math.pi * (rng.random((runs, 1)) + length * (np.arange(steps) + 0.5) / steps)
        sampled = (np.sin(0.2 * np.sin(phase)) ** 2).mean(axis=1)
        mean, sd = rotation(Device(drift="sine", drift_amplitude=0.2, drift_period=1.0), length)
        assert float(mean) == pytest.approx(sampled.mean(), abs=4 * sampled.std() / math.sqrt(runs))
        assert float(sd) == pytest.approx(sampled.std(), rel=0.03)


@pytest.mark.parametrize("drift", ["sine", "walk"])
def test_nodes_stand_for_runs(drift) -> None:
    """Weights of one, with the mean and deviation of runs; no node below the error rate without drift."""
    device = Device(drift=drift, drift_amplitude=0.15, drift_period=1e9)
    rounds = law(device, **LINK, rounds=1e3 if drift == "sine" else 1e9, convention="fidelity")
    weights, rates = (np.array(values, float) for values in zip(*rates_of_runs(device, rounds), strict=True))
    mean = weights @ rates
    assert weights.sum() == pytest.approx(1.0)
    assert mean == pytest.approx(float(rounds.qber), rel=1e-9)
    assert math.sqrt(weights @ (rates - mean) ** 2) == pytest.approx(float(rounds.qber_sd), rel=1e-6)
    assert rates.min() > float(rounds.still_qber) - 1e-12


@pytest.mark.parametrize(
    ("click", "dead", "expected"),
    [(0.01, 10, 0.009091), (0.01, 100, 0.005), (0.1, 5, 0.066667), (0.1, 20, 0.033333)],
)
def test_dead_time_of_both_together(click, dead, expected) -> None:
    rounds = law(Device(dead_rounds=dead), 1.0, click, 0.0, 0.0, 1.0, "fidelity")
    assert float(rounds.click) == pytest.approx(expected, abs=6e-7)
    assert float(rounds.qber) == 0.0


@pytest.mark.parametrize(
    ("eta", "wrong", "dark", "afterpulse", "click", "q"),
    [
        (0.01, 0.02, 1e-5, 0.02, 0.010224, 0.03053),
        (0.01, 0.02, 1e-5, 0.06, 0.010659, 0.04970),
        (0.05, 0.01, 1e-4, 0.05, 0.052832, 0.03631),
    ],
)
def test_afterpulses(eta, wrong, dark, afterpulse, click, q) -> None:
    """p/(1-p_a) and Q + p_a (1/2 - Q), which hold where carriers and clicks seldom meet: within 1 and 3 %."""
    rounds = law(Device(afterpulse=afterpulse), 1.0, eta, wrong, dark, 1.0, "fidelity")
    assert float(rounds.click) == pytest.approx(click, rel=0.01)
    assert float(rounds.qber) == pytest.approx(q, rel=0.03)


@pytest.mark.parametrize(
    ("fibre", "eta", "expected"),
    [
        ({"insertion_loss_db": 1.0}, 0.6, 0.476597),
        ({"length_km": 25, "insertion_loss_db": 2}, 0.1, 0.019953),
        ({"length_km": 25, "insertion_loss_db": 2}, 0.4, 0.079810),
        ({"length_km": 80, "insertion_loss_db": 3}, 0.92, 0.011582),
        ({"length_km": 10, "attenuation_db_per_km": 0.35, "insertion_loss_db": 2}, 0.2, 0.056368),
    ],
)
def test_fibre(fibre, eta, expected) -> None:
    device = validate(DeviceSpec, {"fibre": fibre}).in_rounds()
    assert device is not None
    assert float(law(device, 1.0, eta, 0.0, 0.0, 1.0, "fidelity").click) == pytest.approx(expected, abs=6e-7)


def test_nothing_on_is_the_ideal_link() -> None:
    rng = np.random.default_rng(2)
    points = rng.random((200, 4)) * [0.5, 1.0, 0.2, 1e-2] + [0.5, 0.0, 0.0, 0.0]
    for device in (None, Device()):
        for f, eta, e, d in points:
            rounds = law(device, f, eta, e, d, 1e6, "fidelity")
            assert float(rounds.click) == detection.click_probability(eta, d)
            assert float(rounds.qber) == detection.qber(f, eta, e, d)
            assert float(rounds.several) == float(rounds.qber_sd) == 0.0
    assert PhysicsSpec().device.in_rounds() is None
    assert validate(DeviceSpec, {"round_period_ns": 100.0, "pairs": {"modes": 4}}).in_rounds() is None


def test_effects_fade() -> None:
    """Each effect to nothing gives the ideal link's numbers."""
    ideal = law(None, **LINK, rounds=1e6, convention="fidelity")
    for device in (
        Device(afterpulse=1e-12),
        Device(x_error=1e-12),
        Device(drift="sine", drift_amplitude=1e-7, drift_period=1e9),
        Device(drift="walk", drift_amplitude=1e-7, drift_period=1e9),
        Device(transmission=1.0 - 1e-12),
        Device(dark=1e-15),
    ):
        found = law(device, **LINK, rounds=1e6, convention="fidelity")
        np.testing.assert_allclose([found.click, found.qber], [ideal.click, ideal.qber], rtol=1e-9)
    few = law(source(1e-9, inf, 0.3, 0.0), **LINK, rounds=1e6, convention="fidelity")
    np.testing.assert_allclose([few.click, few.qber], [ideal.click, ideal.qber], rtol=1e-6)


def test_bases_that_err_differently() -> None:
    found = law(Device(x_error=0.02), 1.0, 1.0, 0.01, 0.0, 1.0, "fidelity")
    in_z, in_x = (float(rate) for rate in found.live_qber)
    assert (in_z, in_x) == pytest.approx((0.01, 0.01 + 0.02 - 2 * 0.01 * 0.02))
    assert float(found.qber) == pytest.approx(0.5 * (in_z + in_x))


def test_look_back() -> None:
    assert look_back(Device(dead_rounds=100), 0.01) == pytest.approx(173, abs=1)
    assert look_back(Device(dead_rounds=20), 0.1) == pytest.approx(72, abs=1)
    assert look_back(Device(dead_rounds=4), 0.5) == pytest.approx(30, abs=1)
    assert look_back(Device(dead_rounds=100), 0.1) == pytest.approx(3.8e5, rel=0.02)
    assert look_back(Device(afterpulse=0.1, afterpulse_decay=7.0), 0.5) == 70.0
    assert look_back(Device(dead_rounds=3), 1.0) == inf


# --- security -------------------------------------------------------------------------------------------------------

ERVEN = source(3.145e-5, 1, 0.015, 1.5e-8)
N, EPS = 80_000_000, 2.5e-7


def test_erven_charges_what_several_pairs_tell() -> None:
    """m_1 = 1.0491e6 of 1,128,308 rounds; with his f, no slots and nothing left out his key of 1,392 bits."""
    rounds = law(ERVEN, 1.0, 0.015, 0.0093, 1.5e-8, N, "fidelity")
    detected = float(rounds.click) * N
    known = float(known_rounds(ERVEN, rounds, detected, N, EPS))
    assert detected == pytest.approx(1_128_308, abs=1)
    assert detected - known == pytest.approx(1.0491e6, rel=1e-4)
    assert 3.0 * finite_key.detection_tolerance(N, EPS) * N == pytest.approx(7.56e4, rel=2e-3)
    q = float(rounds.qber)
    leak = 0.5 * detected * 1.491 * (-(q * math.log2(q) + (1 - q) * math.log2(1 - q)))
    counts = Counts(detected, detected, 0.5 * detected, 0.0, leak, known)
    # nu counts stored qubits per emitted pair in the paper, per detection here.
    bits = CLAIMS["erven2014"].key_bits(counts, 0.75, 0.002 * N / detected, EPS, "bob")
    assert bits.secret == pytest.approx(1_392, abs=2)


@pytest.mark.parametrize("name", ["individual", "stw09", "erven2014"])
def test_what_is_known_costs_key(name) -> None:
    """Known rounds cost at least their own entropy, and all of them leave nothing."""
    partition = CLAIMS[name].partitions[-1]
    bits = [
        CLAIMS[name].key_bits(Counts(1e6, 9e5, 4e5, 0.0, 5e4, known), 0.1, 0.1, 1e-10, partition).entropy
        for known in (0.0, 1e3, 1e5, 9e5)
    ]
    rate = CLAIMS[name].entropy_rate(0.1, 0.1)
    assert bits[0] > bits[1] > bits[2] > bits[3] == 0.0
    assert bits[0] - bits[1] >= 0.5 * rate * 1e3 * 0.99
    assert bits[0] - bits[2] >= 0.5 * rate * 1e5 * 0.99


def test_a_claim_without_a_form_for_several_pairs_is_refused() -> None:
    device = {"pairs": {"mean_pairs": 1e-3}}
    with pytest.raises(InvalidArgument, match="several pairs") as refused:
        validate(CampaignSpec, {"physics": {"claim": "lupo2023", "device": device}})
    assert refused.value.violations[0].field == "physics.device.pairs.mean_pairs"
    assert validate(CampaignSpec, {"physics": {"device": device}}).physics.device.in_rounds() is not None


# --- prediction -----------------------------------------------------------------------------------------------------


def points(n: int = 400) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    low, high = Space(PRESETS["cliff"]).model_bounds()
    x = low + (high - low) * rng.random((n, len(low)))
    x[:, 8] = x[:, 8] > 0.5
    r, nu, dt, f, eta, e, d, pairs, strategy = x.T
    return [r, 10**nu, 10**dt, f, 10**eta, e, 10**d, 10**pairs, strategy]


DEVICES = [
    Device(transmission=0.5, dark=1e-6),
    Device(mean_pairs=2e-3, leaking_pairs=1e-4, modes=1.0, alice_efficiency=0.3, alice_dark=1e-6),
    Device(dead_rounds=10, afterpulse=0.02, afterpulse_decay=3.0),
    Device(x_error=0.01),
    Device(drift="sine", drift_amplitude=0.1, drift_period=1e7),
    Device(drift="walk", drift_amplitude=0.1, drift_period=1e6),
]


@pytest.mark.parametrize("device", DEVICES)
def test_prediction_is_the_same_in_both_libraries_and_has_gradients(device) -> None:
    columns = points(60)
    ours = predict(*columns, device=device, arrays=NUMPY)
    tensors = [torch.tensor(c, requires_grad=True) for c in columns[:-1]]
    theirs = predict(*tensors, torch.tensor(columns[-1]), device=device, arrays=TORCH)
    for field in ours._fields:
        np.testing.assert_allclose(
            getattr(theirs, field).detach(), getattr(ours, field), rtol=1e-7, atol=1e-9, err_msg=field
        )
    theirs.margin.sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in tensors)
    assert all(float(t.grad.abs().sum()) > 0.0 for t in tensors[3:6])


@pytest.mark.parametrize("device", DEVICES)
def test_a_worse_device_never_helps(device) -> None:
    columns = points()
    ideal, real = predict(*columns), predict(*columns, device=device)
    hopeful = ideal.margin > -0.02  # deeper down it matters which way a run fails
    assert hopeful.sum() > 50
    assert (real.margin[hopeful] <= ideal.margin[hopeful] + 1e-3).all()
    assert (real.key <= ideal.key + 0.01).all() and real.key.mean() < ideal.key.mean()


def test_drift_spreads_the_margins_of_runs() -> None:
    columns = points()
    device = Device(drift="sine", drift_amplitude=0.1, drift_period=1e12)
    mean = dataclasses.replace(device, drift_period=1.0)  # so fast that all runs are alike
    apart, alike = predict(*columns, device=device), predict(*columns, device=mean)
    hopeful = (alike.margin > -0.02) & (columns[-1] == 0)  # blind runs choose a code for the worst of it
    assert hopeful.sum() > 30
    more = apart.sd[hopeful] / alike.sd[hopeful]
    assert (more > 1.0).mean() > 0.9 and np.median(more) > 1.05


# --- the spec -------------------------------------------------------------------------------------------------------

REFUSED = [
    ({"detectors": {"dead_time_ns": 5}}, "round_period_ns"),
    ({"detectors": {"preset": "ingaas_gated"}}, "round_period_ns"),
    ({"alignment": {"drift": "walk", "drift_amplitude": 0.1, "drift_period_s": 60}}, "round_period_ns"),
    ({"detectors": {"imbalance": 0.1}}, "detectors.imbalance"),
    ({"detectors": {"dark_hz": 100}}, "detectors.gate_ns"),
    ({"detectors": {"gate_ns": 1}}, "detectors.gate_ns"),
    ({"round_period_ns": 1e3, "alignment": {"drift": "sine", "drift_period_s": 60}}, "alignment.drift_amplitude"),
    ({"round_period_ns": 1e3, "alignment": {"drift_amplitude": 0.1}}, "alignment.drift_amplitude"),
    (
        {"round_period_ns": 1e3, "alignment": {"drift": "sine", "drift_amplitude": 0.1, "drift_period_s": 0.1}},
        "alignment.drift_period_s",
    ),
    ({"round_period_ns": 1.0, "detectors": {"preset": "ingaas_nfad"}}, "detectors.dead_time_ns"),
    ({"alignment": {"x_error": 0.01}}, "alignment.x_error"),
    ({"pairs": {"leaking_pairs": 0.1}}, "pairs.leaking_pairs"),
    ({"fibre": {"length_km": -1}}, "fibre.length_km"),
    ({"detectors": {"preset": "ideal"}}, "detectors.preset"),
    ({"fiber": {}}, "fiber"),
]


@pytest.mark.parametrize(("device", "field"), REFUSED)
def test_a_device_that_contradicts_itself_is_refused(device, field) -> None:
    with pytest.raises(InvalidArgument) as refused:
        validate(CampaignSpec, {"physics": {"device": device}})
    assert refused.value.violations[0].field == f"physics.device.{field}"


def test_a_device_beside_physics_is_sent_there() -> None:
    with pytest.raises(InvalidArgument, match=r"write physics\.device") as refused:
        validate(CampaignSpec, {"device": {"fibre": {"length_km": 10}}})
    assert refused.value.violations[0].field == "device"


def test_what_other_sources_and_partitions_cannot_carry() -> None:
    drifting = {"round_period_ns": 1e3, "alignment": {"drift": "sine", "drift_amplitude": 0.1, "drift_period_s": 60}}
    with pytest.raises(InvalidArgument, match="netsquid"):
        validate(CampaignSpec, {"physics": {"device": drifting}, "protocol": {"epr_source": "netsquid"}})
    with pytest.raises(InvalidArgument, match="sequence knows fibre, dark counts and dead time only"):
        validate(CampaignSpec, {"physics": {"device": drifting}, "protocol": {"epr_source": "sequence"}})
    sleeping = {"round_period_ns": 1e3, "detectors": {"dead_time_ns": 5e3}}
    assert validate(
        CampaignSpec,
        {
            "physics": {"device": sleeping},
            "protocol": {"epr_source": "sequence"},
            "space": {"bounds": {"eta": [0.01, 0.1], "P_dark": [1e-8, 1e-5]}},
        },
    )
    with pytest.raises(InvalidArgument, match="netsquid knows fibre and dark counts only"):
        validate(CampaignSpec, {"physics": {"device": sleeping}, "protocol": {"epr_source": "netsquid"}})
    with pytest.raises(InvalidArgument, match="in order of time"):
        validate(CampaignSpec, {"physics": {"device": drifting}, "protocol": {"partition": "bob"}})
    fibre = {"fibre": {"length_km": 10}, "detectors": {"dark_hz": 10, "gate_ns": 1}}
    assert validate(CampaignSpec, {"physics": {"device": fibre}, "protocol": {"epr_source": "netsquid"}})


def test_units_and_presets() -> None:
    spec = validate(
        DeviceSpec,
        {
            "round_period_ns": 1000,
            "detectors": {"preset": "ingaas_nfad", "gate_ns": 1.0, "afterpulse": 0.01, "imbalance": 0.1, "swap": True},
            "alignment": {"drift": "walk", "drift_amplitude": 0.1, "drift_period_s": 60},
        },
    )
    device = spec.in_rounds()
    assert device == Device(
        transmission=0.95,
        dark=pytest.approx(1e-9, rel=1e-6),
        dead_rounds=19,  # of 20 us: the gate 20 us later is alive
        afterpulse=0.01,
        afterpulse_decay=1.1,
        drift="walk",
        drift_amplitude=0.1,
        drift_period=6e7,
    )
    physics = PhysicsSpec(device=spec)
    assert from_proto(to_proto(physics, types_pb2.PhysicsSpec), PhysicsSpec) == physics
