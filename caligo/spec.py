"""A campaign's spec: what decides its rows. Validated here, once, for YAML, Python and the wire alike.

The YAML a person writes, the pydantic models below and the `*Spec` messages of the contract have the same fields by
the same names; `to_proto` and `from_proto` go between the last two. Who writes is held to them: `validate` and
`from_proto` refuse what this release would not carry out. Who reads what is there already, from whatever release, uses
`read_spec` and `read_message`, which refuse nothing.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar, get_origin

from google.protobuf import json_format
from google.protobuf.message import Message
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from caligo import logs
from caligo.errors import FieldViolation, InvalidArgument
from caligo.physics import claims
from caligo.physics.device import TILE, Device, Drift, law, look_back
from caligo.space import PARAMETERS, PRESETS, Space, tell_apart

log = logs.get("spec")

SpecModel = TypeVar("SpecModel", bound=BaseModel)
ProtoMessage = TypeVar("ProtoMessage", bound=Message)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_one(cls, value: Any, info: ValidationInfo) -> Any:
        """Texts may stand for numbers (JSON sends 64-bit ones so), truth values may not, nor anything for them."""
        expected = cls.model_fields[info.field_name or ""].annotation
        if expected in (int, float) and isinstance(value, bool):
            raise ValueError("must be a number")
        if expected is bool and not (isinstance(value, bool) or value in ("true", "false")):
            raise ValueError("must be true or false")
        return value

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """As pydantic's, of a spec of another release too, whose choices need not be among those known here."""
        return super().model_dump(**{"warnings": False, **options})

    def model_dump_json(self, **options: Any) -> str:
        """The same as JSON."""
        return super().model_dump_json(**{"warnings": False, **options})


def _pair_to_bounds(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 2:
        return {"low": value[0], "high": value[1]}
    if not isinstance(value, Bounds | Mapping):
        raise ValueError("must be [low, high]")
    return value


class Bounds(_Model):
    """A closed interval in physical units; in YAML also written `[low, high]`."""

    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Bounds:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} must not exceed high {self.high:g}")
        return self


_Interval = Annotated[Bounds, BeforeValidator(_pair_to_bounds, json_schema_input_type=Bounds | tuple[float, float])]


class SpaceSpec(_Model):
    """The region to explore."""

    preset: Literal["cliff", "qia2025", "table1"] = "cliff"
    """The named space that gives every bound not listed under `bounds`."""
    bounds: dict[str, _Interval] = {}
    """Bounds in physical units by symbol: r, nu, dt_ns, F, eta, e_det, P_dark, N."""
    blind_fraction: float = Field(0.5, ge=0, le=1)
    """Share of rows with blind reconciliation; the rest use the rate-adaptive baseline."""

    @field_validator("bounds")
    @classmethod
    def _inside_the_physical(cls, bounds: dict[str, Bounds]) -> dict[str, Bounds]:
        parameters = {p.symbol: p for p in PARAMETERS}
        for symbol, interval in bounds.items():
            if symbol not in parameters:
                raise ValueError(f"{symbol}: no such parameter; there are {', '.join(parameters)}")
            p = parameters[symbol]
            if interval.low < p.lowest or interval.high > p.highest:
                raise ValueError(f"{symbol}: must lie in [{p.lowest:g}, {p.highest:g}]")
        return bounds

    def resolve(self) -> Space:
        """The box that this spec describes; a parameter whose bounds rows cannot tell apart is fixed at the lower one.

        Raises:
            InvalidArgument: the preset is one of another release.
        """
        if self.preset not in PRESETS:
            raise InvalidArgument("space.preset", f"this release has {', '.join(PRESETS)}, not {self.preset!r}")
        preset = PRESETS[self.preset]
        own = {symbol: (b.low, b.high) for symbol, b in self.bounds.items()}
        box = {p: own.get(p.symbol, preset[p.symbol]) for p in PARAMETERS}
        bounds = {p.symbol: (low, high if tell_apart(p, low, high) else low) for p, (low, high) in box.items()}
        return Space(bounds, self.blind_fraction)


class FibreSpec(_Model):
    """What lies between the parties."""

    length_km: float = Field(0, ge=0, le=1000)
    """Kilometres."""
    attenuation_db_per_km: float = Field(0.2, ge=0, le=100)
    """Of the fibre: 0.2 at 1550 nm (standard), 0.17 (low loss), about 3 at 810 nm."""
    insertion_loss_db: float = Field(0, ge=0, le=100)
    """Of connectors, filters and the analyser."""


class PairsSpec(_Model):
    """The source of pairs, in Alice's laboratory. By default each round holds a single pair."""

    mean_pairs: float = Field(0, ge=0, le=1)
    """Mean number of pairs of a parametric source in a gate; a round is then a gate in which exactly one of Alice's
    detectors clicked. 0: single pairs."""
    leaking_pairs: float = Field(0, ge=0, le=1)
    """Mean number within the time in which photons cannot be told apart: a round with several of these is known to
    a dishonest Bob. 0: as `mean_pairs`."""
    modes: int = Field(1, ge=0, le=1_000_000)
    """Schmidt modes in each polarisation: 1 thermal pair numbers; 0 for very many, which is Poissonian."""
    alice_efficiency: float = Field(1, gt=0, le=1)
    """Of Alice's side, her detectors included."""
    alice_dark: float = Field(0, ge=0, le=0.1)
    """Dark count probability of each of her detectors a gate."""


class DetectorsSpec(_Model):
    """Bob's two detectors, which are open in every round."""

    preset: Literal["none", "si_apd", "ingaas_nfad", "ingaas_gated", "snspd"] = "none"
    """A detector whose figures stand where a setting below is left at 0; docs/devices.md says where they are from."""
    dead_time_ns: float = Field(0, ge=0, le=1e9)
    """After a click, for both detectors together."""
    afterpulse: float = Field(0, ge=0, le=0.5)
    """Probability that a click leaves a carrier which fires the same detector again once it is alive."""
    afterpulse_decay_ns: float = Field(0, ge=0, le=1e9)
    """Mean time for which a carrier stays beyond the dead time."""
    dark_hz: float = Field(0, ge=0, le=1e9)
    """Dark and background counts of each detector a second, in the gate; beside P_dark of the space."""
    gate_ns: float = Field(0, ge=0, le=1e9)
    """Length of the gate, for `dark_hz`."""
    imbalance: float = Field(0, ge=0, le=0.5)
    """By how much the worse of the two detectors is less efficient than the better, relative; eta is the better's."""
    swap: bool = False
    """Bob swaps the detectors of 0 and 1 by a secret coin in each round, which hides an imbalance."""


class AlignmentSpec(_Model):
    """Errors of the analysers beside e_det."""

    x_error: float = Field(0, ge=0, le=0.5)
    """Probability of the wrong port in basis X, beside e_det of both bases."""
    drift: Drift = "none"
    """How the analysers turn over a run: not, by a sinusoid of random phase, by a random walk that begins at 0."""
    drift_amplitude: float = Field(0, ge=0, le=0.785)
    """Radians: of the sinusoid, or the walk's standard deviation after `drift_period_s`."""
    drift_period_s: float = Field(0, ge=0, le=1e7)
    """Seconds: period of the sinusoid, or the time that `drift_amplitude` of a walk is told for."""


class DeviceSpec(_Model):
    """A real device; everything is off by default, and N counts rounds."""

    round_period_ns: float = Field(0, ge=0, le=1e12)
    """Time from one round to the next. Needed by dead time, afterpulses and drift."""
    fibre: FibreSpec = FibreSpec()
    pairs: PairsSpec = PairsSpec()
    detectors: DetectorsSpec = DetectorsSpec()
    alignment: AlignmentSpec = AlignmentSpec()

    @model_validator(mode="after")
    def _consistent(self) -> DeviceSpec:
        """Raises: what contradicts itself, by field."""
        figures, alignment = self._figures(), self.alignment
        if not self.round_period_ns:
            for field in ("dead_time_ns", "afterpulse"):
                if figures[field]:
                    raise ValueError(f"round_period_ns: is needed with detectors.{field}")
            if alignment.drift != "none":
                raise ValueError("round_period_ns: is needed with alignment.drift")
        if bool(self.detectors.gate_ns) != bool(figures["dark_hz"]) and (
            self.detectors.gate_ns or self.detectors.dark_hz
        ):
            raise ValueError("detectors.gate_ns: dark_hz and gate_ns go together")
        if self.detectors.imbalance and not self.detectors.swap:
            raise ValueError(
                "detectors.imbalance: no claim covers detectors that differ, which tell Alice Bob's choice;"
                " `swap: true` is a remedy"
            )
        if (alignment.drift == "none") != (alignment.drift_amplitude == 0.0):
            raise ValueError("alignment.drift_amplitude: a drift has an amplitude above 0, and no drift has none")
        if alignment.drift != "none" and alignment.drift_period_s * 1e9 < _TILES_OF_DRIFT * TILE * self.round_period_ns:
            least = _TILES_OF_DRIFT * TILE * self.round_period_ns * 1e-9
            raise ValueError(
                f"alignment.drift_period_s: must be at least {least:.3g} s, {_TILES_OF_DRIFT * TILE} rounds"
            )
        if self.pairs.leaking_pairs and not self.pairs.mean_pairs:
            raise ValueError("pairs.leaking_pairs: needs mean_pairs")
        return self

    def _figures(self) -> dict[str, float]:
        """Of the detectors: what is set, and the preset's where it is not."""
        preset = DETECTORS.get(self.detectors.preset, {})
        return {name: getattr(self.detectors, name) or preset.get(name, 0.0) for name in _FIGURES}

    def in_rounds(self) -> Device | None:
        """The same in units of rounds; None where nothing is on."""
        fibre, pairs, alignment, figures = self.fibre, self.pairs, self.alignment, self._figures()
        loss_db = fibre.length_km * fibre.attenuation_db_per_km + fibre.insertion_loss_db
        period = self.round_period_ns
        device = Device(
            transmission=10.0 ** (-0.1 * loss_db) * (1.0 - 0.5 * self.detectors.imbalance),
            dark=-math.expm1(-figures["dark_hz"] * self.detectors.gate_ns * 1e-9),
            mean_pairs=pairs.mean_pairs,
            leaking_pairs=pairs.leaking_pairs or pairs.mean_pairs,
            modes=float(pairs.modes or math.inf) if pairs.mean_pairs else math.inf,
            alice_efficiency=pairs.alice_efficiency if pairs.mean_pairs else 1.0,
            alice_dark=pairs.alice_dark if pairs.mean_pairs else 0.0,
            # A gate exactly one dead time later is alive.
            dead_rounds=max(0, math.ceil(figures["dead_time_ns"] / period - 1e-9) - 1) if period else 0,
            afterpulse=figures["afterpulse"],
            afterpulse_decay=figures["afterpulse_decay_ns"] / period if period and figures["afterpulse"] else 0.0,
            x_error=alignment.x_error,
            drift=alignment.drift,
            drift_amplitude=alignment.drift_amplitude,
            drift_period=alignment.drift_period_s * 1e9 / period if alignment.drift != "none" else math.inf,
        )
        return None if device == Device() else device


_TILES_OF_DRIFT: Final = 16
"""Tiles that a period of drift takes at least, since within a tile it stands still."""

DETECTORS: Final[Mapping[str, Mapping[str, float]]] = {
    "none": {},
    "si_apd": {"dead_time_ns": 30.0, "afterpulse": 0.0035, "dark_hz": 250.0},
    "ingaas_nfad": {"dead_time_ns": 20_000.0, "afterpulse": 0.022, "afterpulse_decay_ns": 1_100.0, "dark_hz": 1.0},
    "ingaas_gated": {"afterpulse": 0.055, "afterpulse_decay_ns": 1_100.0, "dark_hz": 3_000.0},
    "snspd": {"dead_time_ns": 40.0, "dark_hz": 1.0},
}
"""Presets by name; docs/devices.md names the sources."""
_FIGURES: Final = ("dead_time_ns", "afterpulse", "afterpulse_decay_ns", "dark_hz")


class PhysicsSpec(_Model):
    """What is assumed about the adversary and the devices."""

    claim: Literal["individual", "lupo2023", "stw09", "erven2014"] = "individual"
    """What key lengths rest on: an entry of `caligo.physics.claims`; docs/physics.md says what each covers."""
    memory_model: Literal["markov", "fixed"] = "markov"
    """`markov`: r decays over the wait, r_eff = r^(dt / 1 s). `fixed`: r is the value after the wait."""
    fidelity_convention: Literal["fidelity", "weight"] = "fidelity"
    """What F is: the fidelity to the Bell state, or its weight in white noise."""
    epsilon: float = Field(1e-10, gt=0, lt=0.1)
    """Each of the claim's error terms, and the detection test's."""
    device: DeviceSpec = DeviceSpec()
    """The link; by default the ideal one, of which eta, e_det and P_dark say everything."""

    @model_validator(mode="before")
    @classmethod
    def _a_bound_is_a_claim(cls, values: Any) -> Any:
        """Release 0.1 had `bound` in the place of `claim`; the names that are left mean something more careful."""
        if not isinstance(values, dict) or "bound" not in values:
            return values
        if "claim" in values:
            raise ValueError("bound: is the old name of claim; give one of the two")
        bound = values["bound"]
        if isinstance(bound, str) and bound in claims.CLAIMS:
            meant = claims.CLAIMS[bound]
            log.warning(
                f"physics.bound: {bound} is read as physics.claim: {bound}", claim=meant.title, charged=meant.charged
            )
        return {**{key: value for key, value in values.items() if key != "bound"}, "claim": bound}

    @field_validator("claim", mode="before")
    @classmethod
    def _claims_something(cls, value: Any) -> Any:
        found = claims.CLAIMS.get(value) if isinstance(value, str) else None
        if found is not None and found.status is claims.Status.NONE:
            raise ValueError(found.refusal(found.partitions[0]))
        return value


class ProtocolSpec(_Model):
    """How one run of the protocol is carried out."""

    epr_source: str = Field("statistical", pattern=r"^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$", max_length=63)
    """Where quantum data comes from: `statistical`, `sequence`, `netsquid`, or a source of somebody else's by its name
    (docs/sources.md). A simulator that has it must be there."""
    partition: claims.Partition = "alice"
    """Who divides the rounds into two strings. `alice`: Bob measures in one basis, Alice's bases are the partition.
    `bob`: Bob measures in random bases and names the sets. A claim that does not cover it is refused."""
    test_fraction: float = Field(0.1, gt=0, lt=0.9)
    """Share of the rounds that are the baseline's calibration slots, agreed on beforehand and opened by both."""
    pe_penalty: Literal["binomial", "serfling"] = "binomial"
    """How the QBER estimate is raised for finite statistics."""
    reconciliation_failure: float = Field(3e-3, ge=1e-12, le=0.5)
    """Probability that a run of the baseline is lost to a frame: half of it for the estimate, half for the codes."""
    max_decoded_frames: int = Field(256, ge=1, le=1_000_000)
    """Most frames of 4,096 bits really decoded a sample, of which 64 always are; one of 65,536 counts as 16. Fewer are
    where the rest is in little doubt; it is drawn at the measured rates."""
    time_limit_seconds: float = Field(120, gt=0, le=86_400)
    """Wall-clock limit of one sample."""


_LOOK_BACKS: Final = 16
"""A tile holds the rounds that it takes on average to know a detector's state this many times."""

BatchRule = Literal["straddle", "randomized_straddle", "joint_straddle", "sur"]
"""Rules that choose a batch of runs; `caligo_surrogate.acquisition` says what each of them values."""


class SurrogateSpec(_Model):
    """How the surrogate learns and chooses."""

    target: Literal["margin", "efficiency"] = "margin"
    """What the regressor learns: the signed margin (zero on the cliff), or key bits a pair (clipped at 0)."""
    prior: Literal["closed_form", "constant"] = "closed_form"
    """What it starts from: the closed form of a run, so that only what differs from it is learned, or nothing. The
    target `efficiency` always starts from nothing."""
    solver: Literal["auto", "cholesky", "cg"] = "auto"
    """`auto`: conjugate gradients on a GPU and for many rows, Cholesky for few rows without one."""
    training_steps: int = Field(150, ge=1, le=10_000)
    """Adam steps of the first fit; later ones start warm and take fewer."""
    learning_rate: float = Field(0.05, gt=0, le=1)
    """Adam's learning rate."""
    acquisition: BatchRule = "sur"
    """How a batch is chosen."""
    straddle_weight: float = Field(1.96, ge=0, le=10)
    """Weight of the posterior's standard deviation against the distance to the cliff."""
    refit_every: int = Field(1, ge=1, le=1000)
    """Batches of the active phase from one fit of the hyper-parameters to the next; new rows count at once."""
    training_rows: int = Field(4096, ge=64, le=1_000_000)
    """Rows that hyper-parameters are learned from at most, drawn by the seed tree; every row counts in predictions."""


class GuardrailSpec(_Model):
    """When a candidate is not worth simulating."""

    enabled: bool = True
    """Skip predicted failures, in phases 1 and 3; off: every candidate is simulated."""
    threshold: float = Field(0.99, ge=0.5, lt=1)
    """A candidate is skipped where the probability of failure exceeds this; by the closed form, the next of 0.9, 0.95,
    0.98, 0.99, 0.995, 0.998, 0.999, 0.9999."""
    audit_fraction: float = Field(0.02, ge=0, le=1)
    """Share of the skipped candidates simulated all the same, to keep the false-skip rate known."""
    classifier: Literal["kernel_logistic", "random_forest"] = "kernel_logistic"
    """What tells failures from successes where the closed form may not."""
    max_false_skip_rate: float = Field(0.01, gt=0, le=1)
    """Share of the candidates above the threshold that may have given a key: where the bound on it is higher, the
    threshold is raised or nothing is skipped."""


class LhsSpec(_Model):
    """Phase 1, a Latin hypercube."""

    samples: int = Field(200, ge=16, le=10_000_000)
    """Feasible rows wanted, those that the guardrail skips included; 16 are simulated in any case. Infeasible ones on
    the way are recorded as skipped."""
    skip: bool = False
    """Use the rows of `base`."""


class TrainingSpec(_Model):
    """Phase 2, training and validation of the surrogate."""

    holdout_fraction: float = Field(0.2, ge=0, le=0.5)
    """Share of the rows held out for validation; the final fit uses all."""
    skip: bool = False
    """Use the model of `base`."""
    folds: int = Field(5, ge=0, le=100)
    """Folds of the cross-validation on the rows of phase 1; 0 or 1: none."""


class ConvergenceSpec(_Model):
    """When phase 3 ends before its budget is spent; by default it does not."""

    boundary_tolerance: float = Field(0, ge=0, le=0.5)
    """Largest share of a fixed Sobol set that changed sides over the last `batches` batches; 0: off."""
    batches: int = Field(8, ge=1, le=1000)
    """Batches that `boundary_tolerance` looks back."""
    brier_target: float = Field(0, ge=0, le=0.25)
    """Expected Brier score of "there is a key" over that set; 0: off."""


class ActiveSpec(_Model):
    """Phase 3, active learning."""

    samples: int = Field(96, ge=1, le=1_000_000)
    """Rows wanted, those skipped by the guardrail included."""
    batch_size: int = Field(8, ge=1, le=256)
    """Candidates a joint batch (q)."""
    lookahead: int = Field(1, ge=0, le=8)
    """Batches under way while the next one is proposed; 0 waits for each batch to end."""
    skip: bool = False
    """Leave the phase out."""
    convergence: ConvergenceSpec = ConvergenceSpec()


class CampaignSpec(_Model):
    """Everything that decides a campaign's rows; with the software's version it determines the file."""

    name: str = Field("campaign", pattern=r"^[a-z0-9](-?[a-z0-9])*$", max_length=63)
    """What people call it: a-z, 0-9 and single hyphens."""
    seed: int = Field(1, ge=0, lt=2**63)
    """Root of the seed tree."""
    space: SpaceSpec = SpaceSpec()
    physics: PhysicsSpec = PhysicsSpec()
    protocol: ProtocolSpec = ProtocolSpec()
    surrogate: SurrogateSpec = SurrogateSpec()
    guardrail: GuardrailSpec = GuardrailSpec()
    lhs: LhsSpec = LhsSpec()
    training: TrainingSpec = TrainingSpec()
    active: ActiveSpec = ActiveSpec()
    base: str = Field("", pattern=r"^([a-z0-9](-?[a-z0-9])*)?$", max_length=80)
    """Id of an earlier campaign on the same server whose rows or model a skipped phase uses."""

    @property
    def rules(self) -> str | None:
        """Under which rules of another release its rows were made, as one clause; None where it has a claim of today's.

        Only a spec that was read can have some.
        """
        return claims.rules_of_another_release(self.physics.claim)

    @model_validator(mode="before")
    @classmethod
    def _the_device_is_physics(cls, values: Any) -> Any:
        if isinstance(values, dict) and "device" in values:
            raise ValueError("device: is a section of physics: write physics.device")
        return values

    @model_validator(mode="before")
    @classmethod
    def _the_partition_of_an_old_bound(cls, values: Any) -> Any:
        """What release 0.1 called the bound erven2014 was always Bob's partition."""
        physics, protocol = (
            (values.get("physics"), values.get("protocol") or {}) if isinstance(values, dict) else (None, None)
        )
        if isinstance(physics, dict) and physics.get("bound") == "erven2014" and isinstance(protocol, dict):
            return {**values, "protocol": {"partition": "bob", **protocol}}
        return values

    @model_validator(mode="after")
    def _the_claim_covers_the_protocol(self) -> CampaignSpec:
        refusal = claims.claim(self.physics.claim).refusal(self.protocol.partition)
        if refusal is not None:
            raise ValueError(f"protocol.partition: {refusal}")
        return self

    @model_validator(mode="after")
    def _the_device_can_be_simulated(self) -> CampaignSpec:
        device = self.physics.device.in_rounds()
        if device is None:
            return self
        if device.mean_pairs and not claims.claim(self.physics.claim).covers_several:
            raise ValueError(
                f"physics.device.pairs.mean_pairs: {self.physics.claim} has no form for rounds with several pairs;"
                " individual, stw09 and erven2014 have"
            )
        if self.protocol.epr_source in ("netsquid", "sequence") and device != Device(device.transmission, device.dark):
            raise ValueError(
                f"physics.device: the source {self.protocol.epr_source} knows fibre and dark counts only; statistical"
                " has the rest"
            )
        if device.x_error and self.space.blind_fraction:
            raise ValueError(
                "physics.device.alignment.x_error: what blind reconciliation asks for would tell Bob's basis;"
                " space.blind_fraction must be 0"
            )
        if device.drift != "none" and self.protocol.partition == "bob":
            raise ValueError(
                "physics.device.alignment.drift: needs protocol.partition alice, whose permutation gives all frames the"
                " mean error rate; Bob's sets are in order of time"
            )
        if device.has_memory and self.space.preset in PRESETS:
            self._memory_fades(device)
        return self

    def _memory_fades(self, device: Device) -> None:
        space = self.space.resolve().bounds
        (_, fidelity), (_, eta), (error, _), (_, dark) = (space[p] for p in ("F", "eta", "e_det", "P_dark"))
        rounds = law(device, fidelity, eta, error, dark, 1.0, self.physics.fidelity_convention)
        click = float(rounds.live_click)
        needed = look_back(device, click)
        if needed > TILE / _LOOK_BACKS:
            raise ValueError(
                f"physics.device.detectors.dead_time_ns: after {device.dead_rounds} blocked rounds at up to {click:.3g}"
                f" clicks a round it takes {needed:.3g} rounds to know whether a detector is alive, and at most"
                f" {TILE / _LOOK_BACKS:.0f} are looked back; lower eta or the dead time"
            )

    @model_validator(mode="after")
    def _skips_have_a_source(self) -> CampaignSpec:
        for phase in ("lhs", "training"):
            if getattr(self, phase).skip and not self.base:
                raise ValueError(f"{phase}.skip: needs `base`, the campaign that has made what is skipped")
        return self


def validate(model: type[SpecModel], values: Any) -> SpecModel:
    """Build a spec model from plain values.

    Raises:
        InvalidArgument: one violation a field, each naming the field by its path and what is allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise invalid_argument(error) from None


def invalid_argument(error: ValidationError) -> InvalidArgument:
    """pydantic's findings as one of our errors, in our words."""
    violations = []
    for item in error.errors(include_url=False, include_input=False):
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "value_error":
            message = item["msg"].removeprefix("Value error, ")
            if ": " in message:  # a rule of ours names the field below its own
                field, _, message = message.partition(": ")
                path = f"{path}.{field}" if path else field
        else:
            message = _WORDS.get(item["type"], "is not allowed").format(**item.get("ctx", {}))
        violations.append(FieldViolation(path or "spec", message))
    first, *more = violations
    return InvalidArgument(first.field, first.allowed, *more)


_MAPPING: Final = "must hold a mapping of settings"
_WHOLE: Final = "must be a whole number"
_WORDS: Final[Mapping[str, str]] = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": _MAPPING,
    "extra_forbidden": "unknown key",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_type": _WHOLE,
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "missing": "must be given",
    "model_type": _MAPPING,
    "path_type": "must be a path",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_long": "must have at most {max_length} characters",
    "string_type": "must be a text",
}
"""What pydantic's types of errors are called here."""


def read_spec(values: Mapping[str, Any]) -> CampaignSpec:
    """The spec of a campaign that is there, whatever release has made it. Refuses nothing.

    Keys that are not known here are left out. Choices and numbers that `validate` would refuse are kept as they are; a
    value that is not even of its field's type gives way to the default. A spec of release 0.1, which had
    `physics.bound` and no claim, reads as the claim `release-0.1/{bound}` with Bob's partition: the rules of then.
    """
    physics, protocol = values.get("physics"), values.get("protocol")
    if isinstance(physics, Mapping) and "claim" not in physics and isinstance(physics.get("bound"), str):
        values = {
            **values,
            "physics": {**physics, "claim": claims.RELEASE_0_1 + physics["bound"]},
            "protocol": {**(protocol if isinstance(protocol, Mapping) else {}), "partition": "bob"},
        }
    return _read(CampaignSpec, values)


def _read(model: type[SpecModel], values: Any) -> SpecModel:
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if not isinstance(values, Mapping) or name not in values:
            continue
        kind, value = field.annotation, values[name]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found[name] = _read(kind, value)
        elif get_origin(kind) is dict:
            found[name] = _read_intervals(value)
        else:
            with contextlib.suppress(ValidationError):
                found[name] = _TYPES.get(kind, _CHOICE).validate_python(value)
    return model.model_construct(**found)


def _read_intervals(values: Any) -> dict[str, Bounds]:
    """Those that have both ends."""
    found: dict[str, Bounds] = {}
    for symbol, value in values.items() if isinstance(values, Mapping) else ():
        with contextlib.suppress(ValueError):
            found[symbol] = _read(Bounds, _pair_to_bounds(value))
    return {symbol: bounds for symbol, bounds in found.items() if bounds.model_fields_set == set(Bounds.model_fields)}


_TYPES: Final[Mapping[Any, TypeAdapter[Any]]] = {
    kind: TypeAdapter(FiniteFloat if kind is float else kind) for kind in (bool, int, float)
}
_CHOICE: Final = TypeAdapter(str)
"""Texts, and whatever another release may choose among."""


def to_proto(model: BaseModel, message: type[ProtoMessage]) -> ProtoMessage:
    """A spec model as the message of the same name."""
    return json_format.ParseDict(model.model_dump(mode="json"), message())


def from_proto(message: Message, model: type[SpecModel], field: str = "") -> SpecModel:
    """A spec model from the message of the same name; fields that are not set take their defaults.

    Args:
        field: path of the message in its request, for errors.

    Raises:
        InvalidArgument: a value is not allowed.
    """
    values = json_format.MessageToDict(message, preserving_proto_field_name=True)
    try:
        return validate(model, values)
    except InvalidArgument as error:
        if not field:
            raise
        prefixed = [FieldViolation(f"{field}.{v.field}", v.allowed) for v in error.violations]
        raise InvalidArgument(prefixed[0].field, prefixed[0].allowed, *prefixed[1:]) from None


def read_message(message: Message) -> CampaignSpec:
    """`read_spec` of a `CampaignSpec` of the contract."""
    return read_spec(json_format.MessageToDict(message, preserving_proto_field_name=True))
