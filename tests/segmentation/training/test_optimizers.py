import io
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ReduceLROnPlateau

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.training.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    WITH_FUSED,
    build_optimizer,
    build_schedule,
    skips_updates,
)


@pytest.fixture
def parameter():
    return torch.nn.Parameter(torch.ones(3))


def rates(parameter, name, total_steps, warmup_steps=0, **options):
    """Return the learning rate of every step of a training. For plateau every step is an epoch."""
    optimizer = build_optimizer([parameter], name="sgd", learning_rate=0.1)
    schedule = build_schedule(
        optimizer, name=name, total_steps=total_steps, warmup_steps=warmup_steps, **options
    )
    used = []
    for _ in range(total_steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step(*([1.0] if name == "plateau" else []))
    return used


def saved_and_loaded(state):
    """Return a state after saving and loading it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_fused_optimizers_skip_an_update_on_the_device(parameter, name, fused):
    optimizer = build_optimizer([parameter], name=name, learning_rate=0.1, fused=fused)
    before = parameter.detach().clone()
    parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.found_inf = torch.ones(())
    if skips_updates(optimizer):
        optimizer.step()
        assert torch.equal(parameter, before)
        assert all(state["step"] == 0 for state in optimizer.state.values())
    assert skips_updates(optimizer) == (fused and name in WITH_FUSED)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_a_step_downhill(parameter, name):
    optimizer = build_optimizer([parameter], name=name, learning_rate=0.01, weight_decay=0.1)
    assert type(optimizer) is OPTIMIZERS[name]
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    (parameter**2).sum().backward()
    optimizer.step()
    assert (parameter < 1).all()


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_momentum_reaches_the_optimizer(parameter, name):
    optimizer = build_optimizer([parameter], name=name, learning_rate=0.01, momentum=0.9)
    assert optimizer.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_optimizers_without_momentum_refuse_it(parameter, name):
    with pytest.raises(UserError, match=rf"{name} takes no momentum.*sgd, rmsprop"):
        build_optimizer([parameter], name=name, learning_rate=0.01, momentum=0.9)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fused_optimizers_train_the_same(name, momentum):
    def trained(fused):
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 50))
        optimizer = build_optimizer(
            [parameter],
            name=name,
            learning_rate=0.01,
            weight_decay=0.1,
            momentum=momentum if name in ("sgd", "rmsprop") else 0.0,
            fused=fused,
        )
        # None lets torch choose; False would also disable its foreach kernels.
        assert optimizer.param_groups[0].get("fused") is (True if fused and name in WITH_FUSED else None)
        for _ in range(5):
            optimizer.zero_grad()
            (parameter**4).sum().backward()
            optimizer.step()
        return parameter.detach()

    torch.testing.assert_close(trained(fused=True), trained(fused=False), rtol=1e-5, atol=1e-6)


def test_the_error_about_an_unknown_name_lists_the_available_ones(parameter):
    with pytest.raises(UserError, match=r"'lion'.*sgd, rmsprop, adam, adamw"):
        build_optimizer([parameter], name="lion", learning_rate=0.01)
    optimizer = build_optimizer([parameter], name="sgd", learning_rate=0.01)
    with pytest.raises(UserError, match=r"'linear'.*constant, step, cosine, one_cycle, polynomial, plateau"):
        build_schedule(optimizer, name="linear", total_steps=10)


@pytest.mark.parametrize(("total_steps", "warmup_steps"), [(10, 9), (1, 1), (0, 0), (10, -1)])
def test_a_warm_up_must_leave_at_least_two_steps(parameter, total_steps, warmup_steps):
    optimizer = build_optimizer([parameter], name="sgd", learning_rate=0.01)
    with pytest.raises(UserError, match="does not fit"):
        build_schedule(optimizer, name="cosine", total_steps=total_steps, warmup_steps=warmup_steps)


def test_plateau_takes_no_warm_up(parameter):
    optimizer = build_optimizer([parameter], name="sgd", learning_rate=0.01)
    with pytest.raises(UserError, match=r"plateau takes no warm-up.* 3: set it to 0"):
        build_schedule(optimizer, name="plateau", total_steps=10, warmup_steps=3)


def test_the_constant_schedule(parameter):
    assert rates(parameter, "constant", 4) == pytest.approx([0.1] * 4)
    assert rates(parameter, "constant", 5, warmup_steps=3) == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])


def test_the_cosine_schedule(parameter):
    assert rates(parameter, "cosine", 4) == pytest.approx([0.1, 0.0853553, 0.05, 0.0146447], rel=1e-5)
    warmed_up = rates(parameter, "cosine", 5, warmup_steps=1)
    assert warmed_up == pytest.approx([0.05, 0.1, 0.0853553, 0.05, 0.0146447], rel=1e-5)


def test_the_step_schedule(parameter):
    assert rates(parameter, "step", 4) == pytest.approx([0.1, 0.1, 0.01, 0.001])
    options = {"milestones": (0.6, 0.8), "factor": 0.5}
    warmed_up = rates(parameter, "step", 5, warmup_steps=1, **options)
    assert warmed_up == pytest.approx([0.05, 0.1, 0.1, 0.05, 0.025])


def test_a_milestone_inside_the_warm_up_takes_effect_at_its_end(parameter):
    used = rates(parameter, "step", 5, warmup_steps=3, milestones=(0.2, 0.8))
    assert used == pytest.approx([0.025, 0.05, 0.075, 0.01, 0.001])


@pytest.mark.parametrize("power", [0.9, 2.0])
def test_the_polynomial_schedule(parameter, power):
    falling = [0.1 * (1 - step / 4) ** power for step in range(4)]
    assert rates(parameter, "polynomial", 4, power=power) == pytest.approx(falling)
    warmed_up = rates(parameter, "polynomial", 5, warmup_steps=1, power=power)
    assert warmed_up == pytest.approx([0.05, *falling])


def test_plateau_drops_after_more_than_patience_epochs_without_improvement(parameter):
    used = rates(parameter, "plateau", 8, factor=0.5, patience=2)  # the first epoch is the best
    assert used == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025])


@pytest.mark.parametrize(("mode", "dropped"), [("max", False), ("min", True)])
def test_the_mode_of_plateau_says_which_score_is_better(parameter, mode, dropped):
    optimizer = build_optimizer([parameter], name="sgd", learning_rate=0.1)
    schedule = build_schedule(optimizer, name="plateau", total_steps=10, patience=0, mode=mode)
    assert isinstance(schedule, ReduceLROnPlateau)
    for score in (0.5, 0.6, 0.7):
        schedule.step(score)
    assert (optimizer.param_groups[0]["lr"] < 0.1) is dropped


@pytest.mark.parametrize(("warmup_steps", "peak"), [(0, 29), (10, 10), (1, 1), (98, 98)])
def test_one_cycle_rises_to_the_optimizers_rate_and_falls_to_almost_0(parameter, warmup_steps, peak):
    used = rates(parameter, "one_cycle", 100, warmup_steps=warmup_steps)
    assert used[peak] == max(used) == pytest.approx(0.1)
    assert used[: peak + 1] == sorted(used[: peak + 1])
    assert used[peak:] == sorted(used[peak:], reverse=True)
    assert used[-1] < 2e-3 * 0.1


def test_one_cycle_does_not_change_the_momentum(parameter):
    optimizer = build_optimizer([parameter], name="sgd", learning_rate=0.1, momentum=0.99)
    build_schedule(optimizer, name="one_cycle", total_steps=10)
    assert optimizer.param_groups[0]["momentum"] == 0.99


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("total_steps", "warmup_steps"), [(1, 0), (2, 0), (3, 0), (3, 1), (8, 3), (8, 6)])
def test_no_schedule_warns_or_fails_for_short_trainings(parameter, name, total_steps, warmup_steps):
    if name == "plateau":
        warmup_steps = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rates(parameter, name, total_steps, warmup_steps=warmup_steps)


class Run:
    """Trains a linear layer. An epoch has two steps; all epochs have the same score."""

    def __init__(self, optimizer_name, schedule_name, total_steps, warmup_steps, fused):
        self.line = torch.nn.Linear(3, 2)
        with torch.no_grad():
            for weight in self.line.parameters():
                weight.fill_(0.5)
        self.optimizer = build_optimizer(
            self.line.parameters(),
            name=optimizer_name,
            learning_rate=0.1,
            weight_decay=0.01,
            momentum=0.9 if optimizer_name in ("sgd", "rmsprop") else 0.0,
            fused=fused,
        )
        self.schedule = build_schedule(
            self.optimizer,
            name=schedule_name,
            total_steps=total_steps,
            warmup_steps=warmup_steps,
            patience=1,
        )

    def train(self, steps):
        """Return the learning rates and the weights of these steps."""
        seen = []
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            self.optimizer.zero_grad()
            (self.line(torch.randn(4, 3, generator=generator)) ** 2).sum().backward()
            rate = self.optimizer.param_groups[0]["lr"]
            self.optimizer.step()
            if not isinstance(self.schedule, ReduceLROnPlateau):
                self.schedule.step()
            elif step % 2:
                self.schedule.step(0.5)
            seen.append(
                (rate, self.schedule.get_last_lr(), [weight.tolist() for weight in self.line.parameters()])
            )
        return seen

    def state(self):
        return {
            "line": self.line.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load(self, state):
        self.line.load_state_dict(state["line"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_resumed_training_is_bit_identical(optimizer_name, schedule_name, data):
    total_steps = data.draw(st.integers(1, 16), "total_steps")
    longest = 0 if schedule_name == "plateau" else max(0, total_steps - 2)
    warmup_steps = data.draw(st.integers(0, longest), "warmup_steps")
    fused = data.draw(st.booleans(), "fused")
    stop = data.draw(st.integers(0, total_steps), "stop")

    def new_run():
        return Run(optimizer_name, schedule_name, total_steps, warmup_steps, fused)

    uninterrupted = new_run().train(range(total_steps))
    stopped, resumed = new_run(), new_run()
    assert stopped.train(range(stop)) == uninterrupted[:stop]
    resumed.load(saved_and_loaded(stopped.state()))
    assert resumed.train(range(stop, total_steps)) == uninterrupted[stop:]
