import warnings

import pytest
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.optimizers import OPTIMIZERS, SCHEDULES, build_optimizer, build_schedule


@pytest.fixture
def parameter():
    return torch.nn.Parameter(torch.ones(3))


def rates(parameter, name, total_steps, warmup_steps=0, learning_rate=0.1):
    """Learning rate of every step of a training, as the trainer steps it."""
    optimizer = build_optimizer([parameter], name="sgd", learning_rate=learning_rate)
    schedule = build_schedule(optimizer, name=name, total_steps=total_steps, warmup_steps=warmup_steps)
    used = []
    for _ in range(total_steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return used


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_a_step_downhill(parameter, name):
    optimizer = build_optimizer([parameter], name=name, learning_rate=0.01, weight_decay=0.1)
    assert type(optimizer) is OPTIMIZERS[name]
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    (parameter**2).sum().backward()
    optimizer.step()
    assert (parameter < 1).all()


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_momentum_arrives(parameter, name):
    optimizer = build_optimizer([parameter], name=name, learning_rate=0.01, momentum=0.9)
    assert optimizer.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_momentum_is_refused_where_it_means_nothing(parameter, name):
    with pytest.raises(UserError, match=rf"{name} takes no momentum.*sgd, rmsprop"):
        build_optimizer([parameter], name=name, learning_rate=0.01, momentum=0.9)


def test_unknown_names_are_refused_with_the_choices(parameter):
    with pytest.raises(UserError, match=r"'lion'.*sgd, rmsprop, adam, adamw"):
        build_optimizer([parameter], name="lion", learning_rate=0.01)
    optimizer = build_optimizer([parameter], name="sgd", learning_rate=0.01)
    with pytest.raises(UserError, match=r"'step'.*constant, cosine, one_cycle"):
        build_schedule(optimizer, name="step", total_steps=10)


@pytest.mark.parametrize(("total_steps", "warmup_steps"), [(10, 9), (1, 1), (0, 0), (10, -1)])
def test_a_warm_up_must_leave_steps_to_train(parameter, total_steps, warmup_steps):
    optimizer = build_optimizer([parameter], name="sgd", learning_rate=0.01)
    with pytest.raises(UserError, match="does not fit"):
        build_schedule(optimizer, name="cosine", total_steps=total_steps, warmup_steps=warmup_steps)


def test_constant(parameter):
    assert rates(parameter, "constant", 4) == pytest.approx([0.1] * 4)
    assert rates(parameter, "constant", 5, warmup_steps=3) == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])


def test_cosine(parameter):
    assert rates(parameter, "cosine", 4) == pytest.approx([0.1, 0.0853553, 0.05, 0.0146447], rel=1e-5)
    warmed_up = rates(parameter, "cosine", 5, warmup_steps=1)
    assert warmed_up == pytest.approx([0.05, 0.1, 0.0853553, 0.05, 0.0146447], rel=1e-5)


@pytest.mark.parametrize(("warmup_steps", "peak"), [(0, 29), (10, 10), (1, 1), (98, 98)])
def test_one_cycle_rises_to_the_rate_and_falls_to_nothing(parameter, warmup_steps, peak):
    used = rates(parameter, "one_cycle", 100, warmup_steps=warmup_steps)
    assert used[peak] == max(used) == pytest.approx(0.1)
    assert used[: peak + 1] == sorted(used[: peak + 1])
    assert used[peak:] == sorted(used[peak:], reverse=True)
    assert used[-1] < 2e-3 * 0.1


def test_one_cycle_leaves_momentum_alone(parameter):
    optimizer = build_optimizer([parameter], name="sgd", learning_rate=0.1, momentum=0.99)
    build_schedule(optimizer, name="one_cycle", total_steps=10)
    assert optimizer.param_groups[0]["momentum"] == 0.99


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("total_steps", "warmup_steps"), [(1, 0), (2, 0), (3, 0), (3, 1), (8, 3), (8, 6)])
def test_no_schedule_warns_or_stumbles_however_short(parameter, name, total_steps, warmup_steps):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rates(parameter, name, total_steps, warmup_steps=warmup_steps)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_resumed_schedule_goes_on_bit_for_bit(parameter, name):
    def start():
        optimizer = build_optimizer([parameter], name="sgd", learning_rate=0.1)
        return optimizer, build_schedule(optimizer, name=name, total_steps=12, warmup_steps=3)

    def step(optimizer, schedule, times):
        used = []
        for _ in range(times):
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return used

    whole = step(*start(), 12)
    for stop in (1, 3, 7):
        optimizer, schedule = start()
        step(optimizer, schedule, stop)
        optimizer_state, schedule_state = optimizer.state_dict(), schedule.state_dict()
        optimizer, schedule = start()
        optimizer.load_state_dict(optimizer_state)
        schedule.load_state_dict(schedule_state)
        assert step(optimizer, schedule, 12 - stop) == whole[stop:]
