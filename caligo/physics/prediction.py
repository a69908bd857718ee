"""What one run of the protocol is expected to give, in closed form: as a distribution, over arrays."""

from collections.abc import Iterator
from math import log, pi, sqrt
from statistics import NormalDist
from typing import Any, NamedTuple, Self

from . import claims, entropy_arrays
from .arrays import NUMPY, Arrays, double
from .blind import Disclosed, disclosed
from .claims import Claim, Partition
from .detection import Convention
from .device import Device, Law, blind_design, known_rounds, law, rates_of_runs
from .efficiency import (
    BASELINE,
    BLIND,
    FRAME_SIZES,
    LEAST_LEAKAGE,
    PAYLOADS,
    baseline_efficiency,
    blind_efficiency,
)
from .entropy import binary_entropy
from .finite_key import Penalty
from .leakage import Place, Rows, leakage_rate, place, rows
from .security import REFERENCE_WAIT_NS, MemoryModel
from .tags import TAG_BITS

MARGIN_FLOOR = -1.0
"""Margins are floored here: deeper in the dead zone the number says nothing more about the cliff."""
FEWEST_DECODED = (64, 4)
"""Frames of each size that the simulator decodes of every run that has them: what is cheap, and all that most short
runs have."""
LEAK_ERROR = 1e-3
"""Standard error of the margin that frames of the blind protocol that are not decoded may leave."""

_BLOCK = 8192
"""Points computed at once, so that what lies between fits the cache."""
_LONG_BLOCK = 32_768
"""The same for PyTorch, whose calls cost more."""
_NODES = ((-sqrt(3.0), 1.0 / 6.0), (0.0, 2.0 / 3.0), (sqrt(3.0), 1.0 / 6.0))
"""Gauss-Hermite nodes and weights of the error rate that the baseline sees."""
_LEAST_SD = 1e-5
_LAST_QBER = (0.1015, 0.108)
"""By frame size: where the codes of the baseline end. Beyond, frames are restored whole: about all of the string is
public, and of many short frames about one."""
_QBER_LIMIT = 0.11
"""Error rates seen beyond it end a run before a code is chosen."""
_LEGENDRE = (
    (0.06943184420297371, 0.17392742256872692),
    (0.33000947820757187, 0.32607257743127307),
    (0.66999052179242813, 0.32607257743127307),
    (0.93056815579702629, 0.17392742256872692),
)
"""Gauss-Legendre nodes and weights on [0, 1]."""


class Prediction(NamedTuple):
    """What is expected of one run, arrays of float64 of the shape of all arguments together."""

    p_click: Any
    """Detection probability per pair."""
    qber: Any
    """Equal-basis error rate."""
    r_eff: Any
    """Retention of the adversary's memory after the wait."""
    min_entropy_rate: Any
    """Asymptotic min-entropy per bit of one string, bits."""
    detected: Any
    """Detected rounds."""
    reconciled: Any
    """Bits m of one string that enter the key of a run that fills a frame, on average over part-frames."""
    leakage_rate: Any
    """Public bits per reconciled bit of one string, tags included."""
    margin: Any
    """Mean over runs that fill a frame: the claim's key bits, unrounded, per reconciled bit; floored at -1."""
    sd: Any
    """Standard deviation of the margin from run to run."""
    filled: Any
    """Probability that a run fills a frame, and sees a round to estimate the error rate on."""
    decoded: Any
    """Probability that every frame of a run is corrected, or dropped in time."""
    key: Any
    """Probability that a run gives a key."""


def sifted_length(rounds: float) -> float:
    """Expected length of the shorter of two strings to which each of so many rounds belongs by a coin, >= 0.

    For X ~ Bin(n, 1/2): E min(X, n-X) = n/2 - sqrt(n/(2 pi)) for large n.
    """
    return max(0.0, 0.5 * rounds - sqrt(rounds / (2.0 * pi)))


def expected_leakage_rate(
    error_rate: float, design_rate: float, strategy: int, frames: float, failure: float, frame_size: int = 4096
) -> float:
    """Expected public bits per reconciled bit, without tags, in [0, 1].

    The baseline's codes are chosen for design_rate, the error rate with its statistical margin, and lose one of the
    frames with probability `failure`, (0, 1); the blind protocol discloses only what the true error_rate makes
    necessary.
    """
    least = LEAST_LEAKAGE[FRAME_SIZES.index(frame_size)]
    if strategy == BASELINE:
        q = min(0.5, design_rate)
        f = baseline_efficiency(q, frames, failure, frame_size)
    else:
        q = min(0.5, error_rate)
        f = blind_efficiency(q, frame_size)
    return min(1.0, max(least, f * binary_entropy(q)))


def removed_rounds(partition: Partition, key_rounds: Any, cut: Any, kept: Any) -> Any:
    """Rounds of both strings together whose removal Bob can influence once the bases are known.

    Of key_rounds outside the slots each string has `cut` bits in whole frames, of which `kept` stay. Alice's own cut is
    random, so with her partition only frames that are dropped count; where Bob names the sets all that is left out.
    """
    return 2.0 * (cut - kept) if partition == "alice" else key_rounds - 2.0 * kept


def most_decoded(size: int, max_decoded_frames: int) -> int:
    """Most frames of a size that the simulator decodes of a run: so many of the shortest, or as many bits in longer
    ones."""
    return max(FEWEST_DECODED[size], max_decoded_frames * FRAME_SIZES[0] // FRAME_SIZES[size])


def decoded_frames(total: Any, deviation: Any, size: int, max_decoded_frames: int, xp: Any) -> Any:
    """Frames of a blind run that the simulator decodes: what others disclose is scaled up from these.

    total: frames of the run; deviation: from frame to frame, of the public bits a bit.
    """
    most = most_decoded(size, max_decoded_frames)
    alone = (deviation / LEAK_ERROR) ** 2
    wanted = xp.clip(alone / (1.0 + alone / total), FEWEST_DECODED[size], most)
    return xp.where(wanted < total, wanted, total)


class _Rules(NamedTuple):
    """What all runs have in common."""

    under: Claim
    partition: Partition
    memory_model: MemoryModel
    convention: Convention
    eps: float
    test_fraction: float
    pe_penalty: Penalty
    reconciliation_failure: float
    tag_bits: int
    max_decoded_frames: int
    device: Device | None


def predict(
    r: Any,
    nu: Any,
    wait_time_ns: Any,
    fidelity: Any,
    efficiency: Any,
    detector_error: Any,
    dark_count_prob: Any,
    num_pairs: Any,
    strategy: Any,
    *,
    claim: str = claims.DEFAULT,
    partition: Partition = "alice",
    memory_model: MemoryModel = "markov",
    convention: Convention = "fidelity",
    eps: float = 1e-10,
    test_fraction: float = 0.1,
    pe_penalty: Penalty = "binomial",
    reconciliation_failure: float = 3e-3,
    tag_bits: int = TAG_BITS,
    max_decoded_frames: int = 256,
    device: Device | None = None,
    arrays: Arrays = NUMPY,
) -> Prediction:
    """Closed-form distribution of one run; defined at every point, feasible or not, and differentiable in PyTorch.

    Arguments that are numbers or arrays broadcast. strategy: efficiency.BASELINE (0) or efficiency.BLIND (1); only the
    baseline spends test_fraction of the rounds on calibration slots. Whole frames lose half a frame on average, so the
    margin has no steps of them; it is that of a run that has filled one, however unlikely `filled` says that is. The
    baseline has one tag a string and a code that loses the run with probability reconciliation_failure, half of it left
    to the estimate; the blind protocol has a tag a frame, and the few frames in ten thousand that it drops are
    neglected. eps: each error term of the claim; max_decoded_frames: what the simulator decodes of a long run; device:
    what stands between pairs and rounds, None for nothing. Raises ValueError for an unknown strategy or option.
    """
    xp = arrays.xp
    rules = _Rules(
        claims.claim(claim), partition, memory_model, convention, eps, test_fraction, pe_penalty,
        reconciliation_failure, tag_bits, max_decoded_frames, device,
    )  # fmt: skip
    points = (
        r, nu, wait_time_ns, fidelity, efficiency, detector_error, dark_count_prob, num_pairs, strategy,
    )  # fmt: skip
    columns = [double(values, xp) for values in points]
    is_blind = columns[-1] == BLIND
    if not bool((is_blind | (columns[-1] == BASELINE)).all()):
        raise ValueError(f"strategy must be {BASELINE} (baseline) or {BLIND} (blind), not {strategy!r}")
    columns = list(
        xp.broadcast_tensors(*columns) if hasattr(xp, "broadcast_tensors") else xp.broadcast_arrays(*columns)
    )
    shape = columns[0].shape
    flat = [column.reshape(-1) for column in columns]
    size = flat[0].shape[0]
    block = _BLOCK if arrays is NUMPY else _LONG_BLOCK
    if size <= block:
        found = _predict(rules, arrays, *flat)
    else:
        parts = [_predict(rules, arrays, *(c[i : i + block] for c in flat)) for i in range(0, size, block)]
        found = Prediction(*(xp.concatenate(part) for part in zip(*parts, strict=True)))
    return Prediction(*(values.reshape(shape) for values in found))


def _predict(
    rules: _Rules,
    arrays: Arrays,
    r: Any,
    nu: Any,
    wait_time_ns: Any,
    fidelity: Any,
    efficiency: Any,
    detector_error: Any,
    dark_count_prob: Any,
    num_pairs: Any,
    strategy: Any,
) -> Prediction:
    """`predict` of a block of points, one-dimensional arrays."""
    xp = arrays.xp
    rounds = law(rules.device, fidelity, efficiency, detector_error, dark_count_prob, num_pairs, rules.convention, xp)
    runs = [
        (weight, _predict_runs(rules, arrays, rounds, rate, r, nu, wait_time_ns, num_pairs, strategy))
        for weight, rate in rates_of_runs(rules.device, rounds)
    ]
    if len(runs) == 1:
        return runs[0][1]
    mixed = Prediction(
        *(
            sum(w * values for (w, _), values in zip(runs, of, strict=True))
            for of in zip(*(p for _, p in runs), strict=True)
        )
    )
    variance = sum(w * (p.sd * p.sd + (p.margin - mixed.margin) ** 2) for w, p in runs)
    return mixed._replace(sd=xp.sqrt(variance))


def _predict_runs(
    rules: _Rules,
    arrays: Arrays,
    rounds: Law,
    error_rate: Any,
    r: Any,
    nu: Any,
    wait_time_ns: Any,
    num_pairs: Any,
    strategy: Any,
) -> Prediction:
    """`_predict` of runs that have this error rate."""
    xp = arrays.xp
    is_blind = strategy == BLIND
    p_click = rounds.click
    r_eff = retention(r, wait_time_ns, rules.memory_model, xp)

    detected = num_pairs * p_click
    share = xp.where(is_blind, 1.0 + 0.0 * p_click, 1.0 - rules.test_fraction)
    key_rounds = xp.clip(detected * share, 1e-9, None)
    sifted = xp.clip(0.5 * key_rounds - xp.sqrt(key_rounds / (2.0 * pi)), 1.0, None)
    slots = xp.clip(0.5 * rules.test_fraction * detected, 1e-9, None)
    rate = entropy_arrays.entropy_rate(rules.under.name, r_eff, nu, xp)
    known = known_rounds(rules.device, rounds, detected, num_pairs, rules.eps, xp)
    frames = [
        _Frames.of(i, rules, key_rounds, p_click * share, share, sifted, known, r_eff, nu, rate, is_blind, arrays)
        for i in range(2)
    ]

    k = xp.clip(slots, 1.0, None)
    blind, has_large = disclosed(error_rate, xp), frames[1].filled
    if rules.device is not None and rules.device.drift != "none":
        few, many = disclosed(blind_design(rounds), xp)
        blind = blind[0].of_design(few, xp), blind[1].of_design(many, xp)
    seen = []
    for design, weight in _seen_rates(error_rate, k, sifted, rules, xp):
        at = place(design, xp)
        (low, low_leak), (high, high_leak) = (
            f.margin(at, is_blind, of.mean, rules, xp) for f, of in zip(frames, blind, strict=True)
        )
        # Of the frame sizes that the run fills, the one that leaves the most key is taken, on average over what the
        # long frames leave over: as if that were normal, by E max(0, d) = d P(d > 0) + unit phi(d/unit).
        unit = PAYLOADS[1] / sqrt(12.0) * (xp.abs(high + frames[1].m * frames[1].slope) + 1e-3)
        more = xp.clip((high * frames[1].m - low * frames[0].m) / unit, -20.0, 20.0)
        chosen = 1.0 / (1.0 + xp.exp(-1.7 * more))
        gained = unit * xp.exp(-0.5 * more * more) / (sqrt(2.0 * pi) * frames[1].m)
        gained = gained * frames[1].left_over(xp) * (sqrt(12.0) / PAYLOADS[1])
        either, either_leak = low + chosen * (high - low) + gained, low_leak + chosen * (high_leak - low_leak)
        apart = chosen * (1.0 - chosen) * (high - low) ** 2
        seen.append((weight, chosen, low, either, apart, low_leak + has_large * (either_leak - low_leak)))
    margin = sum(weight * (low + has_large * (either - low)) for weight, _, low, either, *_ in seen)
    variance = sum(
        weight * ((1.0 - has_large) * (low - margin) ** 2 + has_large * ((either - margin) ** 2 + apart))
        for weight, _, low, either, apart, _ in seen
    )
    leak = sum(weight * public for weight, *_, public in seen)
    large = has_large * sum(weight * chosen for weight, chosen, *_ in seen)
    small, big = (f.length_variance(key_rounds, p_click * share, rules, xp) for f in frames)
    variance = variance + small + large * (big - small) + _LEAST_SD**2

    # The blind protocol ends before a frame is corrected where not even the least that is disclosed would leave a key.
    few, many = (f.asked_variance(of, rules, xp) for f, of in zip(frames, blind, strict=True))
    rooms = [of.mean - of.least for of in blind]
    room = rooms[0] + large * (rooms[1] - rooms[0])
    hope = xp.clip((margin + room) / (xp.sqrt(variance) + 2e-3), -20.0, 20.0)
    goes_on = xp.where(is_blind, 1.0 / (1.0 + xp.exp(-1.7 * hope)), 1.0 + 0.0 * hope)
    asked = xp.where(is_blind, few + large * (many - few), 0.0 * few)
    likely = goes_on * arrays.special.ndtr(margin / xp.sqrt(variance + asked))
    variance = variance + goes_on * asked
    ended = [of.mean - of.planned for of in blind]
    margin = margin + (1.0 - goes_on) * (ended[0] + large * (ended[1] - ended[0]))

    # Where the slots show more than the codes serve, the run has no key, and its margin lies far below.
    unserved = xp.where(is_blind, 0.0 * large, _unserved(error_rate, k, sifted, large, rules, arrays))
    fall = xp.clip(1.0 - leak, 0.0, None) * (large + (1.0 - large) * PAYLOADS[0] / frames[0].m)
    sd = xp.sqrt(variance + unserved * (1.0 - unserved) * fall * fall)
    margin = margin - unserved * fall

    filled = frames[0].filled * xp.where(is_blind, 1.0 + 0.0 * slots, -xp.expm1(-slots))
    decoded = xp.where(is_blind, 1.0 + 0.0 * slots, 1.0 - 0.5 * rules.reconciliation_failure)
    reconciled = frames[0].m + large * (frames[1].m - frames[0].m)
    key = filled * decoded * (1.0 - unserved) * likely
    margin = xp.clip(margin, MARGIN_FLOOR, None)
    return Prediction(p_click, error_rate, r_eff, rate, detected, reconciled, leak, margin, sd, filled, decoded, key)


class _Frames(NamedTuple):
    """The frames of one size that a run fills."""

    size: int
    m: Any
    """Bits of one string in whole frames."""
    entropy: Any
    """Of one string."""
    rows: Rows
    """Of the tables of leakage."""
    fixed: Any
    """What hashing and tags take of it."""
    slope: Any
    """d margin/dm."""
    filled: Any
    """Probability that there is a frame."""

    @classmethod
    def of(
        cls,
        size: int,
        rules: _Rules,
        key_rounds: Any,
        p_key: Any,
        share: Any,
        sifted: Any,
        known: Any,
        r_eff: Any,
        nu: Any,
        entropy_rate: Any,
        is_blind: Any,
        arrays: Arrays,
    ) -> Self:
        """p_key: probability of a round of the strings per pair; share: of the detected rounds outside the slots;
        known: rounds that may hold several pairs."""
        xp, payload = arrays.xp, PAYLOADS[size]
        m = xp.clip(sifted - 0.5 * payload, payload, None)
        # A run that fills a frame has as many rounds, whatever is expected.
        rounds = xp.where(key_rounds > 2.0 * m, key_rounds, 2.0 * m)
        removed = removed_rounds(rules.partition, rounds, m, m)
        entropy = entropy_arrays.entropy(
            rules.under, rounds / share, rounds, m, removed, known, r_eff, nu, rules.eps, rules.partition, xp
        )
        tags = rules.tag_bits * xp.where(is_blind, m / payload, 1.0 + 0.0 * m)
        fixed = rules.under.hashing_cost(rules.eps) + tags
        # A finite form is nearly A m - B sqrt(m), A the claim's rate; where Bob names the sets, a bit left over is one
        # bit of entropy less.
        lacking = 0.5 * (entropy_rate * m - entropy) if rules.partition == "alice" else m - entropy
        slope = (xp.where(entropy > 0.0, lacking, 0.0 * m) + fixed) / (m * m)
        filled = _filled(key_rounds, p_key, payload, arrays)
        return cls(size, m, entropy, rows(m / payload, xp), fixed, slope, filled)

    def margin(self, at: Place, is_blind: Any, asked: Any, rules: _Rules, xp: Any) -> tuple[Any, Any]:
        """Key bits and public bits, tags included, per bit of one string.

        at: the rate that the baseline's codes are chosen for; asked: what the blind protocol discloses a bit.
        """
        failure = 0.5 * rules.reconciliation_failure
        rate = xp.where(is_blind, asked, leakage_rate(at, self.rows, self.size, failure, xp))
        tags = (self.fixed - rules.under.hashing_cost(rules.eps)) / self.m
        return (self.entropy - self.fixed) / self.m - rate, rate + tags

    def left_over(self, xp: Any) -> Any:
        """Standard deviation of the bits left over by whole frames; nothing of that is open where one frame fills."""
        payload = PAYLOADS[self.size]
        return xp.clip(self.m - payload, 0.0, payload / sqrt(12.0))

    def length_variance(self, key_rounds: Any, p_key: Any, rules: _Rules, xp: Any) -> Any:
        """Of the margin, since the number of bits varies and whole frames are taken of it."""
        rounds = 1.0 - p_key if rules.partition == "alice" else 0.0
        length = 0.25 * key_rounds * (rounds + 1.0 - 2.0 / pi)
        return self.slope**2 * (length + self.left_over(xp) ** 2)

    def asked_variance(self, blind: Disclosed, rules: _Rules, xp: Any) -> Any:
        """Of the margin, since frames of the blind protocol differ in what they ask for."""
        total = self.m / PAYLOADS[self.size]
        decoded = decoded_frames(total, blind.deviation, self.size, rules.max_decoded_frames, xp)
        return blind.deviation * blind.deviation / decoded


def retention(r: Any, wait_time_ns: Any, memory_model: MemoryModel, xp: Any) -> Any:
    """security.effective_retention over arrays."""
    if memory_model == "fixed":
        return r
    if memory_model != "markov":
        raise ValueError(f"memory_model must be 'markov' or 'fixed', not {memory_model!r}")
    kept = xp.exp(wait_time_ns / REFERENCE_WAIT_NS * xp.log(xp.clip(r, 1e-300, None)))
    return xp.where(r > 0.0, kept, 0.0 * kept)


def _seen_rates(error_rate: Any, k: Any, n: Any, rules: _Rules, xp: Any) -> Iterator[tuple[Any, float]]:
    """The error rates that the baseline's codes are chosen for, by what k slots may show, and their weights.

    The square root of a count of errors is nearly normal with the variance 1/4 even where they are few (Anscombe,
    Biometrika 35, 246 (1948)).
    """
    failure = 0.5 * rules.reconciliation_failure
    root = xp.sqrt(k * error_rate + 0.375)
    scatter = 0.5 * xp.sqrt(xp.clip(1.0 - error_rate, 0.0, None))
    if rules.pe_penalty == "binomial":
        z = NormalDist().inv_cdf(1.0 - failure)
    elif rules.pe_penalty != "serfling":
        raise ValueError(f"penalty must be 'binomial' or 'serfling', not {rules.pe_penalty!r}")
    for node, weight in _NODES:
        errors = xp.clip(root + node * scatter, 0.0, None) ** 2 - 0.625
        seen = xp.clip(errors / k, 0.0, 0.5)
        if rules.pe_penalty == "binomial":
            width = z * z / k
            under_root = xp.clip(width * (seen * (1.0 - seen) + 0.25 * width), 1e-300, None)
            design = (seen + 0.5 * width + xp.sqrt(under_root)) / (1.0 + width)
        else:
            design = seen + xp.sqrt((n + k) / (n * k) * (k + 1.0) / k * log(4.0 / failure))
        yield xp.clip(design, None, 0.5), weight


def _unserved(error_rate: Any, k: Any, n: Any, large: Any, rules: _Rules, arrays: Arrays) -> Any:
    """Probability that k slots show a rate beyond whose limit no code is, but none that ends the run at once.

    Wilson's limit is the rate whose own deviation reaches down to what was seen. large: share of the long frames.
    """
    xp, failure = arrays.xp, 0.5 * rules.reconciliation_failure
    last = _LAST_QBER[0] + large * (_LAST_QBER[1] - _LAST_QBER[0])
    if rules.pe_penalty == "binomial":
        seen = last - NormalDist().inv_cdf(1.0 - failure) * xp.sqrt(last * (1.0 - last) / k)
    else:
        seen = last - xp.sqrt((n + k) / (n * k) * (k + 1.0) / k * log(4.0 / failure))
    scale = 2.0 / xp.sqrt(xp.clip(1.0 - error_rate, 1e-3, None))
    root = xp.sqrt(k * error_rate + 0.375)
    low, high = (
        arrays.special.ndtr(scale * (root - xp.sqrt(xp.clip(k * rate, 0.0, None) + 0.375)))
        for rate in (seen, _QBER_LIMIT)
    )
    return xp.clip(low - high, 0.0, 1.0)


def _filled(key_rounds: Any, p_key: Any, payload: int, arrays: Arrays) -> Any:
    """Probability that both strings have `payload` rounds, where each pair gives one of either with p_key / 2.

    Both counts are nearly normal; their correlation is -p_key/(2 - p_key), and Owen's T function has the corner of two
    such (Ann. Math. Stat. 27, 1075 (1956)).
    """
    xp, ndtr = arrays.xp, arrays.special.ndtr
    alone = xp.clip(1.0 - p_key, 1e-12, 1.0)
    z = (0.5 * key_rounds - payload + 0.5) / xp.sqrt(0.5 * key_rounds * (1.0 - 0.5 * p_key))
    z = xp.clip(z, -30.0, 30.0)
    slope = xp.sqrt(alone)
    scaled = z / slope
    owen = 0.0
    for node, weight in _LEGENDRE:
        stretched = 1.0 + (node * slope) ** 2
        owen = owen + weight * xp.exp(-0.5 * scaled * scaled * stretched) / stretched
    owen = owen * slope / (2.0 * pi)
    return xp.clip(ndtr(scaled) * (2.0 * ndtr(z) - 1.0) + 2.0 * owen, 0.0, 1.0)
