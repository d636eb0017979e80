"""Every way of running a step computes the same: eager, compiled, captured, in parts; and where one fails, another."""

import math

import pytest
import torch
from small_runs import SIZES, state_of, what_is_left
from torch.utils._python_dispatch import TorchDispatchMode

from vaekit.config.load import load_config, to_dict
from vaekit.data.splits import load_splits
from vaekit.errors import NumericalError
from vaekit.processes import ALONE
from vaekit.system import usable_cores
from vaekit.training import acceleration
from vaekit.training.acceleration import put_back, try_to_capture, worth_capturing, worth_compiling
from vaekit.training.checkpoint import load_checkpoint, locate
from vaekit.training.combinations import check_config
from vaekit.training.loggers import Several, Silent
from vaekit.training.loop import Trainer
from vaekit.training.state import restore
from vaekit.verbs.train import train

MLP = ("model.network={kind: mlp, widths: [24]}",)
CONV = ("model.network={kind: conv, widths: [4, 8]}",)


class Heard(Silent):
    """A logger that keeps the messages."""

    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


def trainer_of(run, *overrides, logger=None, world=ALONE):
    config = load_config("digits", [*SIZES, *overrides], check=check_config)
    trainer = Trainer(config, load_splits(config.data), run, logger or Several([]), to_dict(config), world)
    trainer.model.train()
    return trainer


def gradients(trainer, forward, differentiate):
    """Loss, its terms and every gradient, from the generator's present state, which is put back."""
    state = torch.get_rng_state()
    trainer.step.forward, trainer.step.differentiate = forward, differentiate
    loss, values = trainer.step.gradients(*trainer.feed.batch())
    torch.set_rng_state(state)
    verdict = trainer.step.verdict or trainer.step.judge(loss, trainer.step._norm())  # some ways measure it themselves
    trainer.step.verdict = None
    values |= {"norm": verdict.norm, "divisor": verdict.divisor, "accepted": verdict.accepted.float()}
    return {"loss": loss, **values} | {n: p.grad.clone() for n, p in trainer.model.named_parameters()}


WAYS = {"jointly": acceleration.compile_jointly, "forward": acceleration.compile_forward}


def assert_same_at_each_step(trainer, way, steps, **options):
    """Compiled and eager agree to 1e-5 of the largest entry of each gradient, along a real training."""
    torch._dynamo.reset()
    eager = trainer.step.forward, trainer.step.differentiate
    compile_ = torch.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, **given: compile_(function, **given, **options))
        WAYS[way](trainer.step, trainer.model)
    compiled = trainer.step.forward, trainer.step.differentiate
    assert compiled != eager
    for step in range(steps):
        trainer.feed.load(step)
        with put_back(dict, trainer.device):
            found = gradients(trainer, *compiled)
            wanted = gradients(trainer, *eager)
        nats = max(1.0, *(abs(float(value)) for value in wanted.values() if value.ndim == 0))
        for name, value in wanted.items():
            scale = nats if value.ndim == 0 else float(value.abs().max())  # a density's loss may pass through zero
            assert float((found[name] - value).abs().max()) <= 1e-5 * scale + 1e-9, (step, name)
        trainer.step.forward, trainer.step.differentiate = eager
        trainer._body()
    assert int(trainer.counters.step) == steps and int(trainer.counters.skipped) == 0


LONG = ("objective.beta={kind: linear, over: 10}", "training.clip=5")
CASES = {
    "mlp": MLP,
    "conv": CONV,
    "in parts": (*MLP, "training.accumulate=2"),
    "charbonnier": (*MLP, "model.likelihood=charbonnier", "data.binarize=none", "data.dequantize=true"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", ["mlp", "conv"])
def test_compiled_loss_and_gradients_equal_eager_ones_at_each_of_200_steps(tmp_path, case, way):
    trainer = trainer_of(tmp_path, *CASES[case], *LONG)
    assert_same_at_each_step(trainer, way, 200, backend="aot_eager")


@pytest.mark.parametrize("case", ["in parts", "charbonnier"])
def test_differentiated_jointly_parts_add_up_and_every_density_has_its_gradient(tmp_path, case):
    assert_same_at_each_step(trainer_of(tmp_path, *CASES[case], *LONG), "jointly", 5, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", ["mlp", "conv", "in parts", "charbonnier"])
def test_the_default_compiler_agrees_too(tmp_path, case, way):
    from torch._inductor import config

    with config.patch(fallback_random=True):  # the same noise as the eager step
        assert_same_at_each_step(trainer_of(tmp_path, *CASES[case], *LONG), way, 200, **acceleration.IN_CPP)


def test_a_network_with_batch_statistics_is_compiled_by_its_forward_pass_alone(tmp_path, monkeypatch):
    counting(monkeypatch)
    plain = trainer_of(tmp_path / "a", *MLP, "training.compile=on", "training.epochs=1")
    batch = trainer_of(
        tmp_path / "b",
        "model.network={kind: conv, widths: [4], norm: batch}",
        "training.compile=on",
        "training.epochs=1",
    )
    for trainer in (plain, batch):
        trainer.fit()
    assert isinstance(plain.step.differentiate, acceleration.Joint)
    assert not isinstance(batch.step.differentiate, acceleration.Joint)


# Nothing waits for the device


class NoWaiting(TorchDispatchMode):
    """Fails on every operation that on a GPU makes the host wait, or that takes a number from the host."""

    waits = ("_local_scalar_dense", "nonzero", "masked_select", "equal.default", "is_nonzero", "unique", "lift_fresh")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert not any(name in str(function) for name in self.waits), f"{function} waits for the device"
        return function(*args, **(kwargs or {}))


PLAIN = ("data.binarize=dynamic",)
STEPS = {
    "plain": PLAIN,
    "every guard": ("training.clip=1", "training.ema=0.9", "training.weight_decay=0.1", "training.warmup=3"),
    "adam": ("training.optimizer=adam",),
    "adamax": ("training.optimizer=adamax", "training.clip=1"),
    "parts": ("training.accumulate=3",),
    "fp16": ("training.precision=fp16",),
    "bf16": ("training.precision=bf16",),
    "batch norm": ("model.network={kind: conv, widths: [4], norm: batch}",),
    "resnet": ("model.network={kind: resnet, widths: [4], norm: group}",),
    "augmented": ("data.flip=true", "data.shift=1"),
    "fixed": ("data.binarize=fixed",),
    "threshold": ("data.binarize=threshold",),
    "optimal scale": ("data.binarize=none", "model.likelihood={kind: gaussian, scale: optimal}"),
    "logistic": ("data.binarize=none", "model.likelihood=discretised-logistic"),
    "charbonnier": ("data.binarize=none", "data.dequantize=true", "model.likelihood=charbonnier"),
    "denoising": ("model.kind=autoencoder", "model.corruption=mask"),
    "free bits": ("objective.free_bits=0.1", "objective.beta={kind: cyclical, end: 1, over: 2}"),
    "per epoch": ("training.schedule=step", "training.schedule_unit=epoch", "training.warmup=2"),
}


@pytest.mark.parametrize("overrides", STEPS.values(), ids=STEPS)
def test_nothing_in_a_step_waits_for_the_device(tmp_path, overrides):
    trainer = trainer_of(tmp_path, *overrides)
    trainer.ema.in_one_pass = False  # as on a GPU
    trainer.feed.load(0)
    trainer._body()  # the first step names the sums
    for step in range(1, 3):
        trainer.feed.load(step)
        with NoWaiting():
            trainer._body()
    assert int(trainer.counters.step) == 3
    assert int(trainer.counters.summed) + int(trainer.counters.overflows) == 3


def test_the_watch_sees_a_wait():
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        float(torch.ones(()))
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        torch.tensor(3.0)


# Choices and fallbacks


def counting(monkeypatch):
    """torch.compile without a compiler; how often it was called."""
    calls = []

    def compile_(function, **options):
        calls.append(options)
        return lambda *arguments: function(*arguments)

    monkeypatch.setattr(torch, "compile", compile_)
    return calls


def test_only_long_runs_are_compiled_and_only_a_gpu_captures():
    cpu, cuda, mps = (torch.device(name) for name in ("cpu", "cuda", "mps"))
    for device in (cpu, cuda):
        limit = acceleration.STEPS_TO_COMPILE[device.type]
        assert worth_compiling(device, limit) and not worth_compiling(device, limit - 1)
    assert not worth_compiling(mps, 10**9)
    assert worth_capturing(cuda, 1000) and not worth_capturing(cpu, 10**9)


def test_the_choice_is_said_stored_and_kept_on_resume(tmp_path, monkeypatch):
    calls = counting(monkeypatch)
    monkeypatch.setitem(acceleration.STEPS_TO_COMPILE, "cpu", 20)
    run = tmp_path / "run"
    heard = Heard()
    train("digits", *SIZES, *MLP, "training.epochs=2", out=run, loggers=[heard])
    assert calls == [{"fullgraph": True, "dynamic": False, **acceleration.IN_CPP}], (
        "forward, loss and gradients as one function"
    )
    assert any(line.startswith("step: compiled") for line in heard.lines)
    assert state_of(run)["choices"] == {"compiled": True, "captured": False, "parts": 1}
    monkeypatch.setitem(acceleration.STEPS_TO_COMPILE, "cpu", 10**9)
    train("digits", *SIZES, *MLP, "training.epochs=3", out=run, resume=True)
    assert len(calls) == 2, "the choice of the run's first process holds"
    train("digits", *SIZES, *MLP, "training.epochs=4", "training.compile=off", out=run, resume=True)
    assert len(calls) == 2 and not state_of(run)["choices"]["compiled"]


def test_without_a_compiler_the_run_is_eager_and_says_so_once(tmp_path, monkeypatch):
    def broken(function, **options):
        def run(*arguments):
            raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found\nand a long story")

        return run

    plain = train("digits", *SIZES, *MLP, "training.epochs=1", out=tmp_path / "plain")
    monkeypatch.setattr(torch, "compile", broken)
    heard = Heard()
    on = train("digits", *SIZES, *MLP, "training.epochs=1", "training.compile=on", out=tmp_path / "on", loggers=[heard])
    told = [line for line in heard.lines if "cannot compile" in line]
    assert told == ["cannot compile here, so the step runs eagerly: InvalidCxxCompiler: no working C++ compiler found"]
    for group in ("model", "ema", "optimizer", "trainer"):
        name = f"checkpoints/step-00000010/{group}.safetensors"
        assert what_is_left(on)[name] == what_is_left(plain)[name], "trying to compile must leave no trace"


def test_a_step_that_cannot_be_captured_leaves_everything_as_it_was(tmp_path):
    trainer = trainer_of(tmp_path, "model.network={kind: conv, widths: [4], norm: batch}")
    trainer.feed.load(0)
    trainer._body()
    before = {name: value.clone() for name, value in trainer._state().items()}
    generator, said = torch.get_rng_state(), []

    class Unready:
        def __init__(self, *arguments):
            trainer._body()
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acceleration, "Captured", Unready)
        assert try_to_capture(trainer._body, trainer._state, trainer.device, said.append) is None
    assert said == [
        "cannot capture the step as a CUDA graph, so it runs kernel by kernel: "
        "operation not permitted when stream is capturing"
    ]
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in trainer._state().items())


def test_put_back_zeroes_what_appears_meanwhile():
    held = {"old": torch.ones(2)}
    with put_back(lambda: held, torch.device("cpu")):
        held["old"] += 1
        held["new"] = torch.ones(2)
    assert held["old"].tolist() == [1, 1] and held["new"].tolist() == [0, 0]


# Out of memory


def short_of_memory(trainer, most):
    """Let the trainer's forward pass fail above `most` images; the sizes that it saw."""
    plain, seen = trainer.step.forward, []

    def forward(images, *others):
        seen.append(len(images))
        torch.rand(3)  # some noise is drawn before the memory runs out
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(images, *others)

    trainer.step.forward = forward
    return seen


@pytest.mark.parametrize("most", [40, 16, 1])
def test_out_of_memory_halves_the_micro_batch_and_changes_no_gradient(tmp_path, most):
    noise_free = (*CONV, "model.kind=autoencoder", "data.binarize=none", "model.likelihood=bce")
    heard = Heard()
    whole, short = trainer_of(tmp_path / "a", *noise_free), trainer_of(tmp_path / "b", *noise_free, logger=heard)
    size = whole.batches.batch_size
    seen = short_of_memory(short, most)
    for step in range(3):
        for trainer in (whole, short):
            trainer.feed.load(step)
            trainer._body()
    assert seen[0] == size and max(seen[-size // most :]) <= most, "one halving after another, then no more"
    assert len(heard.lines) == sum("images at a time" in line for line in heard.lines) <= 6
    for name, value in whole.model.state_dict().items():
        assert torch.allclose(short.model.state_dict()[name], value, rtol=1e-3, atol=1e-5), name
    assert short.counters.take() == pytest.approx(whole.counters.take(), rel=1e-4)
    assert short.choices_now().parts >= size / most


def test_a_step_that_is_tried_again_draws_the_same_noise(tmp_path):
    """In 2 parts from the start, or after the memory ran out: the same bytes."""
    told, found = trainer_of(tmp_path / "a", "training.accumulate=2"), trainer_of(tmp_path / "b")
    short_of_memory(told, 10**6)
    short_of_memory(found, -(-found.batches.batch_size // 2))
    for trainer in (told, found):
        torch.manual_seed(7)
        for step in range(3):
            trainer.feed.load(step)
            trainer._body()
    assert all(torch.equal(value, told._state()[name]) for name, value in found._state().items())


def test_one_image_that_does_not_fit_ends_with_exit_code_5_and_advice(tmp_path):
    trainer = trainer_of(tmp_path)
    short_of_memory(trainer, 0)
    with pytest.raises(NumericalError, match=r"one image at a time.*widths.*bf16") as caught:
        trainer.fit()
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)


def test_other_errors_pass(tmp_path):
    trainer = trainer_of(tmp_path)

    def forward(*arguments):
        raise RuntimeError("shape mismatch")

    trainer.step.forward = forward
    with pytest.raises(RuntimeError, match="shape mismatch"):
        trainer.fit()


def test_the_parts_are_kept_on_resume(tmp_path):
    first = trainer_of(tmp_path, "training.epochs=1")
    short_of_memory(first, 20)
    first.fit()
    parts = state_of(tmp_path)["choices"]["parts"]
    assert parts > 1
    again = trainer_of(tmp_path, "training.epochs=2")
    restore(again, load_checkpoint(locate(tmp_path, "latest")))
    seen = short_of_memory(again, 20)
    again.fit()
    assert seen and max(seen) <= 20, "the resumed run does not run out of memory again"


# Threads


@pytest.mark.parametrize(
    ("text", "most"), [("150000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_no_more_threads_than_cores_to_use(tmp_path, text, most):
    everything = usable_cores(tmp_path / "absent")
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path / "cpu.max") == (most or everything) >= 1


# On a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("overrides", [(), ("training.accumulate=2", "training.precision=bf16"), CONV])
def test_a_captured_run_ends_with_the_bytes_of_an_eager_one(tmp_path, overrides):
    shared = (*SIZES, *overrides, "training.device=cuda", "training.deterministic=true", "training.compile=off")
    eager = train("digits", *shared, "training.capture=off", out=tmp_path / "eager")
    captured = train("digits", *shared, "training.capture=on", out=tmp_path / "captured")
    assert state_of(captured)["choices"]["captured"]
    for group in ("model", "ema", "optimizer", "trainer"):
        name = f"{locate(eager, 'latest').relative_to(eager)}/{group}.safetensors"
        assert what_is_left(captured)[name] == what_is_left(eager)[name], group


@pytest.mark.parametrize(("loss", "norm"), [(math.inf, 1.0), (math.nan, 1.0), (1.0, math.inf), (1.0, math.nan)])
def test_an_update_needs_a_finite_loss_and_a_finite_gradient(tmp_path, loss, norm):
    """Either may be lost alone: a penalty without a gradient, or a root at zero."""
    step = trainer_of(tmp_path).step
    assert bool(step.judge(torch.tensor(1.0), torch.tensor(2.0)).accepted)
    assert not bool(step.judge(torch.tensor(loss), torch.tensor(norm)).accepted)
