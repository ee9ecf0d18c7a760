"""How a run is optimized, as fields of its recipe."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from whispertune.errors import RecipeError
from whispertune.evaluation.options import ValidationOptions
from whispertune.features.options import FrameOptions
from whispertune.model.options import LossOptions
from whispertune.system.fields import Bounds, Options, PositiveInt

Decay = Annotated[float, Bounds(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions(Options):
    """The learning rate of each optimizer update."""

    name: Literal["noam", "linear", "cosine", "constant", "wsd"] = "noam"
    """Shape after the warmup: `noam` (inverse square root), `linear` or `cosine` (to zero at the end of the run),
    `constant`, or `wsd` (stable, then linear decay to zero)."""

    peak_lr: Annotated[float | Literal["auto"], Bounds(gt=0)] = "auto"
    """Learning rate at the end of the warmup; `auto` depends on the model's width, and is higher for LoRA."""

    warmup_steps: Annotated[int | Literal["auto"], Bounds(ge=1)] = "auto"
    """Number of updates of linear warmup; `auto` is a tenth of the run, at most 500."""

    scale: Literal["peak", "d_model"] = "peak"
    """Scale of noam: `peak` reaches peak_lr; `d_model` is factor x d_model^-0.5 (Vaswani et al. 2017)."""

    factor: Annotated[float, Bounds(gt=0)] = 1.0
    """Factor of noam with scale d_model."""

    decay_share: Annotated[float, Bounds(gt=0, le=1)] = 0.2
    """Share of the run, at its end, over which wsd decays to zero."""

    encoder_scale: Annotated[float, Bounds(gt=0, le=100)] = 1.0
    """Multiplier of the learning rate for what learns of the encoder; 0.3 lets it change more slowly than the
    decoder."""

    def check(self) -> None:
        if self.scale == "d_model" and self.name != "noam":
            raise RecipeError(
                f"is d_model, which goes with schedule.name noam, not {self.name}", field="scale", others=("name",)
            )
        unused = {"peak_lr": "scale peak"} if self.scale == "d_model" else {"factor": "scale d_model"}
        unused |= {} if self.name == "wsd" else {"decay_share": "name wsd"}
        for field, place in unused.items():
            if (value := getattr(self, field)) != getattr(ScheduleOptions, field):
                raise RecipeError(f"is {value}, but it goes with schedule.{place} alone; leave it out", field=field)


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions(Options):
    """AdamW (Loshchilov & Hutter 2019)."""

    name: Literal["adamw", "adamw8bit"] = "adamw"
    """`adamw`, or `adamw8bit`, which keeps AdamW's two moments in 8 bits (Dettmers et al. 2022): 2 bytes of GPU memory
    instead of 8 for each parameter that learns. Updates then differ a little; error rates were compared in one short
    run only, and were equal. It needs the extra adamw8bit (bitsandbytes). On a CPU it is slow and saves no memory."""

    weight_decay: Annotated[float, Bounds(ge=0)] = 0.01
    """Decoupled weight decay; not applied to biases, LayerNorm weights and position embeddings."""

    beta1: Decay = 0.9
    """Decay rate of the running mean of gradients."""

    beta2: Decay = 0.98
    """Decay rate of the running mean of squared gradients."""

    eps: Annotated[float, Bounds(gt=0)] = 1e-8
    """Added to the denominator for numerical stability."""

    max_grad_norm: Annotated[float, Bounds(ge=0)] = 2.0
    """Maximum L2 norm of the gradients of all parameters together; larger ones are scaled down. 0 turns clipping
    off."""

    max_skipped_in_a_row: PositiveInt = 20
    """Stop the run after this many updates in a row were skipped for non-finite gradients."""


@dataclass(frozen=True, kw_only=True)
class BatchOptions(Options):
    """How an update is split into micro-batches."""

    auto: bool | None = None
    """Find the largest micro-batch that fits in memory by trying. An update keeps its batch_size x accumulation
    utterances but is computed in as few micro-batches as possible. By default on GPUs alone."""


@dataclass(frozen=True, kw_only=True)
class AverageOptions(Options):
    """Averaged weights, as further candidates for the best model after the last epoch."""

    epochs: PositiveInt = 1
    """Average the weights after the last so many epochs; 1 for none. Saved states hold one more copy of the weights."""

    mix: tuple[float, ...] = ()
    """Mixtures of the untouched model and the fine-tuned one (averaged, if `epochs` says so): a share of 0.75 takes
    three quarters of the fine-tuning. Several may be tried: [0.5,0.75]. They forget less of what the model could do
    before."""

    def check(self) -> None:
        if not all(0 < share < 1 for share in self.mix):
            raise RecipeError(f"is {list(self.mix)}; each share must be above 0 and below 1", field="mix")


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(Options):
    """How the best model is stored, and how often the state that a resume needs is saved."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """How the weights in best/ are stored: `auto` is as those of the pretrained model (float16 for large-v3). The
    training state is always in float32. On a resume another type holds from the next best model on."""

    every_minutes: Annotated[float, Bounds(ge=0)] = 5.0
    """Save the state when this many minutes have passed since the last time."""

    every_steps: Annotated[int | None, Bounds(ge=1)] = None
    """Save the state after every so many optimizer updates as well."""


class TrainingOptions(Protocol):
    """The fields of a recipe that the training loop reads."""

    @property
    def epochs(self) -> int: ...
    @property
    def max_steps(self) -> int | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def loss(self) -> LossOptions: ...
    @property
    def optimizer(self) -> OptimizerOptions: ...
    @property
    def frames(self) -> FrameOptions: ...
    @property
    def validation(self) -> ValidationOptions: ...
    @property
    def average(self) -> AverageOptions: ...
    @property
    def checkpoint(self) -> CheckpointOptions: ...


FREEZE_HELP = (
    "`encoder`, `none`, `auto` (the encoder's lower third), `encoder:N` (its convolutions and first N layers) or "
    "`decoder:N` (the encoder and the decoder below its layer N), -N being all but the last N; `,embeddings` freezes "
    "these, too"
)


def parse_freeze(freeze: str) -> tuple[str, int | None, int | None, bool]:
    """The `freeze` field's first word, its layers of encoder or decoder, and whether the embeddings are frozen.

    Raises:
        RecipeError: if it is malformed.
    """
    # Twelve digits: more no model has, and Python refuses thousands.
    match = re.fullmatch(
        r"(encoder|none|auto|encoder:(-?\d{1,12})|decoder:(-?\d{1,12}))(,embeddings)?", freeze.replace(" ", "")
    )
    if match is None:
        near = difflib.get_close_matches(freeze, ("encoder", "none", "auto"), 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise RecipeError(f"is {freeze!r}{meant}; it takes {FREEZE_HELP}", field="freeze")
    encoder, decoder = (None if layers is None else int(layers) for layers in match.group(2, 3))
    return match[1], encoder, decoder, match[4] is not None
