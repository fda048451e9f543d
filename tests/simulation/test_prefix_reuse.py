"""A chat's next turn goes on from the caches of the turn before, and never gives other tokens for it."""

from __future__ import annotations

import itertools
import random

import pytest

from p2pinfer.ids import SessionId
from p2pinfer.inference.generation import chunked
from p2pinfer.testing import World, run_seeds
from tests.inference.swarm import Swarm, undisturbed

FIRST = tuple(range(1, 31))
FIRST_SHAPES = list(chunked(0, 30, 4))
ANSWER = 20
ADDED = (401, 402, 403, 404, 405, 406)


def chunks(start: int, end: int) -> list[tuple[int, int]]:
    return list(chunked(start, end, 4))


def next_turn(
    answer: list[int], added: tuple[int, ...] = ADDED
) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Return the second turn's prompt, and the shapes of its steps where the first turn's caches are used."""
    prompt = (*FIRST, *answer, *added)
    answered = [(30 + i, 1) for i in range(len(answer) - 1)]
    return prompt, [*FIRST_SHAPES, *answered, *chunks(30 + len(answer) - 1, len(prompt))]


def rows(swarm: Swarm) -> int:
    return sum(engine.computed_rows for engine in swarm.engines.values())


def first_turn(swarm: Swarm) -> list[int]:
    answer = swarm.run(swarm.ask(prompt=FIRST, answer=ANSWER))
    assert answer == undisturbed(FIRST, FIRST_SHAPES, answer=ANSWER)
    return answer


def test_the_next_turn_computes_only_what_is_new() -> None:
    swarm = Swarm(1)
    answer = first_turn(swarm)
    before = rows(swarm)
    prompt, shapes = next_turn(answer)
    assert swarm.run(swarm.ask(prompt=prompt)) == undisturbed(prompt, shapes)
    assert rows(swarm) - before == 3 * (1 + len(ADDED) + 30 - 1)


def test_a_third_turn_goes_on_from_the_second() -> None:
    swarm = Swarm(2)
    answer = first_turn(swarm)
    prompt, shapes = next_turn(answer)
    second = swarm.run(swarm.ask(prompt=prompt, answer=10))
    third = (*prompt, *second, 7, 8, 9)
    before = rows(swarm)
    start = len(prompt)
    all_shapes = [*shapes, *((start + i, 1) for i in range(9)), *chunks(start + 9, len(third))]
    assert swarm.run(swarm.ask(prompt=third)) == undisturbed(third, all_shapes)
    assert rows(swarm) - before == 3 * (1 + 3 + 29)


@pytest.mark.parametrize("hop", [0, 1, 2])
def test_a_hop_killed_in_the_second_turn_is_replaced_with_all_old_steps(hop: int) -> None:
    swarm = Swarm(3 + hop)
    prompt, shapes = next_turn(first_turn(swarm))
    session = swarm.ask(prompt=prompt)
    swarm.run_to_token(session, 11)
    swarm.host(swarm.chain_names(session)[hop]).crash()
    assert swarm.run(session) == undisturbed(prompt, shapes)
    (recovery,) = swarm.recoveries(session)
    assert recovery.stall_s < 1.0


@pytest.mark.parametrize("hop", [0, 1, 2])
def test_a_hop_that_died_between_the_turns_lets_the_next_begin_anew(hop: int) -> None:
    swarm = Swarm(10 + hop)
    session = swarm.ask(prompt=FIRST, answer=ANSWER)
    swarm.run_to_token(session, 1)
    name = swarm.chain_names(session)[hop]
    prompt, _ = next_turn(swarm.run(session))
    swarm.host(name).crash()
    assert swarm.run(swarm.ask(prompt=prompt)) == undisturbed(prompt, chunks(0, len(prompt)))


def test_a_hop_that_lost_its_cache_lets_the_next_turn_begin_anew() -> None:
    swarm = Swarm(14, copies=1)
    prompt, _ = next_turn(first_turn(swarm))
    swarm.host("b0").restart()
    assert swarm.run(swarm.ask(prompt=prompt)) == undisturbed(prompt, chunks(0, len(prompt)))


def test_an_edited_turn_shares_what_stands_before_the_edit() -> None:
    swarm = Swarm(15)
    first_turn(swarm)
    before = rows(swarm)
    edited = (*FIRST[:22], 900, 901, 902, 903)
    assert swarm.run(swarm.ask(prompt=edited)) == undisturbed(edited, chunks(0, 20) + chunks(20, 26))
    assert rows(swarm) - before == 3 * (6 + 29)


def test_the_same_prompt_again_computes_its_last_step() -> None:
    swarm = Swarm(16)
    first_turn(swarm)
    before = rows(swarm)
    assert swarm.run(swarm.ask(prompt=FIRST, answer=ANSWER)) == undisturbed(
        FIRST, FIRST_SHAPES, answer=ANSWER
    )
    assert rows(swarm) - before == 3 * (2 + ANSWER - 1)


def test_no_prompt_is_cut_so_that_one_position_stands_alone() -> None:
    for size in (3, 4, 7, 128):
        for end in range(2, 300):
            shapes = chunked(0, end, size)
            assert sum(count for _, count in shapes) == end
            assert [base for base, _ in shapes] == [0, *itertools.accumulate(c for _, c in shapes)][:-1]
            assert all(1 < count <= size for _, count in shapes)


def test_one_cache_is_not_shared_by_two_answers_at_once() -> None:
    swarm = Swarm(17)
    prompt, shapes = next_turn(first_turn(swarm))
    one, two = swarm.ask(prompt=prompt), swarm.ask(prompt=prompt, seed=2)
    assert swarm.run(one) == undisturbed(prompt, shapes)
    assert swarm.run(two) == undisturbed(prompt, chunks(0, len(prompt)), seed=2)


def test_a_parked_cache_makes_room_for_whoever_needs_it() -> None:
    swarm = Swarm(18, copies=1, memory=60 * 8)
    prompt, _ = next_turn(first_turn(swarm), ())
    other = tuple(range(500, 530))
    assert swarm.run(swarm.ask(prompt=other, answer=ANSWER)) == undisturbed(
        other, FIRST_SHAPES, answer=ANSWER
    )
    assert swarm.run(swarm.ask(prompt=prompt, answer=5)) == undisturbed(
        prompt, chunks(0, len(prompt)), answer=5
    )


def test_a_cancelled_answer_is_gone_on_from_while_its_last_step_is_still_under_way() -> None:
    swarm = Swarm(19, copies=1)
    session = swarm.ask(prompt=FIRST, answer=200)
    swarm.run_to_token(session, 5)
    swarm.me.call(lambda core, now: (None, core.entry.cancel(session, now)))
    said = swarm.tokens(session)
    prompt, shapes = next_turn(said)
    assert swarm.run(swarm.ask(prompt=prompt)) == undisturbed(prompt, shapes)


def test_nobody_goes_on_from_another_peers_session() -> None:
    swarm = Swarm(20)
    swarm.add("other", None)
    first_turn(swarm)
    swarm.world.run_for(1.0)
    (parked,) = {name for h in swarm.world.hosts.values() for name in h.core.hop._sessions._parked}
    other = swarm.host("other")
    other.core.entry._parked._parked.update(swarm.me.core.entry._parked._parked)
    assert isinstance(parked, SessionId)
    session = swarm.ask(prompt=(*FIRST, 1, 2, 3), at="other")
    assert swarm.run(session, at="other") == undisturbed((*FIRST, 1, 2, 3), chunks(0, 33))


def chat(world: World) -> None:
    """A conversation of several turns whose hops are restarted in between and in mid-answer."""
    rng = random.Random(world.seed)
    swarm = Swarm(world, copies=3)
    prompt = FIRST
    for turn in range(4):
        session = swarm.ask(prompt=prompt, answer=12, seed=turn)
        swarm.run_to_token(session, rng.randrange(12))
        if rng.random() < 0.5:
            chain = swarm.me.core.entry._generations.get(session)
            if chain is not None:
                swarm.host(rng.choice(swarm.chain_names(session))).restart()
        generation = swarm.me.core.entry._generations.get(session)
        answer = swarm.run(session)
        if generation is not None:
            assert answer == undisturbed(prompt, generation.shapes, answer=12, seed=turn)
        prompt = (*prompt, *answer, *(rng.randrange(1000) for _ in range(rng.randrange(1, 7))))


def test_a_conversation_survives_restarts(sim_seed: int) -> None:
    run_seeds(chat, [sim_seed], replay=f"{__name__}:chat")
