"""Exchanges as compiled programs write them down."""

import pytest

from brushjax.training.scale.collectives import collectives

GATHER = (
    "  %all-gather.5 = bf16[2048,2048]{1,0:T(8,128)(2,1)S(1)} all-gather(%convert), channel_id=2, "
    "replica_groups=mesh['axis_0'=8,'axis_1'=2] {'axis_0'}, dimensions={0}, "
    "use_global_device_ids=true"
)
REDUCE = (
    "  %all-reduce.1 = (f32[10]{0}, /*index=1*/f32[]) all-reduce(%a, %b), channel_id=3, "
    "replica_groups=[2,4]<=[8], to_apply=%add"
)
SCATTER = (
    "  ROOT %reduce_scatter.7 = bf16[256,2048]{1,0} reduce-scatter(%x), channel_id=1, "
    "replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}"
)
STARTED = (
    "  %ags = (bf16[4,2]{1,0}, bf16[16,2]{1,0}) all-gather-start(%x), channel_id=9, "
    "replica_groups={{0,1,2,3}}\n"
    "  %agd = bf16[16,2]{1,0} all-gather-done(%ags)"
)
FUSED = "  %f = bf16[8]{0} fusion(%all-gather.5), kind=kOutput, calls=%all-reduce-scatter.2"


@pytest.mark.parametrize(
    ("text", "kind", "group", "size"),
    [
        (GATHER, "all-gather", 8, 2048 * 2048 * 2 * 7 / 8),
        (REDUCE, "all-reduce", 4, 2 * 44 * 3 / 4),
        (SCATTER, "reduce-scatter", 8, 256 * 2048 * 2 * 7),
        (STARTED, "all-gather", 4, 16 * 2 * 2 * 3 / 4),
    ],
    ids=["gather", "reduce", "scatter", "started"],
)
def test_exchange_is_read_with_its_group_and_bytes(text, kind, group, size):
    (one,) = collectives(text + "\n", devices=8)
    assert (one.kind, one.group) == (kind, group)
    assert one.bytes == pytest.approx(size)


def computation(name, *lines):
    return "\n".join([f"%{name} (x: bf16[8]) -> bf16[8] {{", *lines, "}", ""])


def test_exchange_in_several_computations_counts_once_and_its_users_do_not():
    text = computation("start.1", GATHER, FUSED) + computation("done.1", GATHER.replace(".5", ".6"))
    assert len(collectives(text, devices=8)) == 1
    other = computation("main", GATHER.replace("channel_id=2", "channel_id=4"))
    assert len(collectives(text + other, devices=8)) == 2


def test_exchanges_of_one_channel_in_one_computation_all_count():
    assert len(collectives(computation("main", GATHER, GATHER), devices=8)) == 2


def test_fused_reduce_scatter_sends_half_of_its_all_reduce():
    (plain,) = collectives(computation("main", REDUCE), devices=8)
    fused = collectives("".join(computation(f"all-reduce-scatter.{n}", REDUCE) for n in "12"), 8)
    assert [one.bytes for one in fused] == [plain.bytes / 2] * 2


def loop(condition):
    """A program whose loop gathers in its body."""
    inside = computation("body", GATHER)
    entry = computation("main", "  %w = bf16[8]{0} while(%x), condition=%cond, body=%body")
    return condition + inside + "ENTRY " + entry


def test_exchange_in_a_loop_counts_as_often_as_the_loop_runs():
    condition = computation(
        "cond",
        "  %constant.3 = s32[]{:T(128)} constant(32)",
        "  %i = s32[]{:T(128)} get-tuple-element(%x), index=0",
        "  ROOT %lt = pred[]{:T(512)} compare(%i, %constant.3), direction=LT",
    )
    (one,) = collectives(loop(condition), devices=8)
    assert one.times == 32  # TPUs' programs say it in no other place
    assert one.bytes == pytest.approx(32 * 2048 * 2048 * 2 * 7 / 8)
    said = loop(condition).replace(
        "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}'
    )
    assert collectives(said, devices=8)[0].times == 5
    unknown = condition.replace("constant(32)", "parameter(1)")
    assert collectives(loop(unknown), devices=8)[0].times == 1
