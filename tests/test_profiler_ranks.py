"""Which process this is, and which GPUs are its own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch.cuda
from hypothesis import assume, given
from hypothesis import strategies as st

from profiler.errors import InvalidValueError
from profiler.measure.ranks import Place, order_note, place_from, select_gpus, visible_uuids

UUIDS = ("GPU-11aa", "GPU-11bb", "GPU-2222", "GPU-3333")
MIGS = {"GPU-2222": ("MIG-5555", "MIG-5566"), "GPU-3333": ("MIG-GPU-3333/1/0",)}

# Values of CUDA_VISIBLE_DEVICES, and the places of the devices that they show.
TABLE: list[tuple[str | None, list[int]]] = [
    (None, [0, 1, 2, 3]),
    ("", []),
    ("-1", []),
    ("0", [0]),
    ("2,0", [2, 0]),
    ("3,2,1,0", [3, 2, 1, 0]),
    (" 1 , 2 ", [1, 2]),
    ("0,-1,1", [0]),
    ("0,9,1", [0]),
    ("9", []),
    ("0,0", []),
    ("1,2,1", []),
    ("0,9,0", []),
    ("0,-1,0", [0]),
    ("0,,1", [0]),
    (",1", []),
    ("1gpu2,2ampere", [1, 2]),
    ("0x1,2", [0, 2]),
    ("+1", [1]),
    ("01", [1]),
    ("1.5,2", [1, 2]),
    ("none", []),
    ("NoDevFiles", []),
    ("0,GPU-2222", [0]),
    ("GPU-2222", [2]),
    ("GPU-2222,GPU-11aa", [2, 0]),
    ("GPU-2", [2]),
    ("GPU-11", []),
    ("GPU-2,GPU-11,GPU-3", [2]),
    ("GPU-2,GPU-9,GPU-3", [2]),
    ("GPU-2,0", [2]),
    ("GPU-2222,GPU-2222", []),
    ("GPU-2222,GPU-22", []),
    ("GPU-2222, GPU-11aa", [2]),
    (" GPU-2222", []),
    ("GPU-", []),
    ("gpu-2222", []),
    ("2222", []),
]


def as_torch_sees_it(value: str | None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The places of the visible devices by PyTorch's own two functions, cut off as its device count does."""
    if value is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    parsed = torch.cuda._parse_visible_devices()
    if parsed and isinstance(parsed[0], str):
        return torch.cuda._transform_uuid_to_ordinals(parsed, list(UUIDS))
    beyond = next((place for place, index in enumerate(parsed) if index >= len(UUIDS)), len(parsed))
    return list(parsed[:beyond])


class TestVisible:
    @pytest.mark.parametrize(("value", "places"), TABLE)
    def test_table(self, value: str | None, places: list[int]) -> None:
        assert visible_uuids(value, UUIDS) == tuple(UUIDS[place] for place in places)

    @pytest.mark.parametrize(("value", "places"), TABLE)
    def test_torch_agrees(
        self, value: str | None, places: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert as_torch_sees_it(value, monkeypatch) == places

    @given(st.lists(st.sampled_from(["0", "1", " 2", "3x", "9", "-1", "", "GPU-2", "GPU-11a", "GPU-11"])))
    def test_torch_agrees_on_any_mixture(self, entries: list[str]) -> None:
        value = ",".join(entries)
        with pytest.MonkeyPatch.context() as monkeypatch:
            expected = as_torch_sees_it(value, monkeypatch)
        assert visible_uuids(value, UUIDS) == tuple(UUIDS[place] for place in expected)

    @given(st.text(alphabet="0123456789,+- \tGPUMIabx/.", max_size=24))
    def test_torch_agrees_on_any_text(self, value: str) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            try:
                expected = as_torch_sees_it(value, monkeypatch)
            except ValueError:  # a sign alone: see below
                assume(False)
        assert visible_uuids(value, UUIDS) == tuple(UUIDS[place] for place in expected)

    @given(
        st.lists(
            st.sampled_from(
                ["MIG-55", "MIG-5555", "MIG-5566", "MIG-9", "MIG-GPU-3333/1/0", "MIG-", "GPU-2222", "0", ""]
            ),
            min_size=1,
        )
    )
    def test_torch_agrees_on_mig(self, entries: list[str]) -> None:
        """PyTorch parses MIG instances but leaves resolving them to CUDA: prefixes, as those of whole GPUs."""
        value = ",".join(["MIG-5566", *entries])
        instances = [uuid for of_gpu in MIGS.values() for uuid in of_gpu]
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
            places = torch.cuda._transform_uuid_to_ordinals(torch.cuda._parse_visible_devices(), instances)
        assert visible_uuids(value, UUIDS, MIGS) == tuple(instances[place] for place in places)

    @pytest.mark.parametrize("value", ["+", "-", "+,1"])
    def test_a_sign_alone_is_invalid(self, value: str) -> None:
        """PyTorch 2.13 raises ValueError here; CUDA does not."""
        assert visible_uuids(value, UUIDS) == ()

    @pytest.mark.parametrize(
        ("value", "uuids"),
        [
            ("MIG-5555", ["MIG-5555"]),
            ("MIG-5566,MIG-5555", ["MIG-5566", "MIG-5555"]),
            ("MIG-556", ["MIG-5566"]),
            ("MIG-55", []),
            ("MIG-9", []),
            ("MIG-5555,GPU-11aa", ["MIG-5555"]),
            ("MIG-GPU-3333/1/0", ["MIG-GPU-3333/1/0"]),
        ],
    )
    def test_mig(self, value: str, uuids: list[str]) -> None:
        assert visible_uuids(value, UUIDS, MIGS) == tuple(uuids)


class TestTorchsOwnTable:
    """Every entry of PyTorch's own tests of its parser (test/test_cuda_nvml_based_avail.py)."""

    MANY = tuple(f"GPU-{number}" for number in range(6))
    LONG = (
        "GPU-9942190a-aa31-4ff1-4aa9-c388d80f85f1",
        "GPU-9e8d35e3-a134-0fdd-0e01-23811fdbd293",
        "GPU-e429a63e-c61c-4795-b757-5132caeb8e70",
        "GPU-eee1dfbc-0a0f-6ad8-5ff6-dc942a8b9d98",
        "GPU-bbcd6503-5150-4e92-c266-97cc4390d04e",
        "GPU-472ea263-58d7-410d-cc82-f7fdece5bd28",
        "GPU-e56257c4-947f-6a5b-7ec9-0f45567ccf4e",
        "GPU-1c20e77d-1c1a-d9ed-fe37-18b8466a78ad",
    )

    @pytest.mark.parametrize(
        ("value", "places"),
        [
            ("1gpu2,2ampere", [1, 2]),
            ("0, 1, 2, -1, 3", [0, 1, 2]),
            ("0, 1, 2, 1", []),
            ("2, +3, -0, 5", [2, 3, 0, 5]),
            ("one,two,3,4", []),
            ("4,3,two,one", [4, 3]),
        ],
    )
    def test_indices(self, value: str, places: list[int]) -> None:
        assert visible_uuids(value, self.MANY) == tuple(self.MANY[place] for place in places)

    @pytest.mark.parametrize(("value", "count"), [("1, 0", 2), ("1, 5, 0", 1)])
    def test_out_of_bounds(self, value: str, count: int) -> None:
        assert len(visible_uuids(value, self.MANY[:2])) == count

    @pytest.mark.parametrize(
        ("value", "places"),
        [
            ("GPU-9e8d35e3", [1]),
            ("GPU-123, 2", []),
            ("GPU-9e8d35e3,2", [1]),
            ("GPU-e4,GPU-9e8d35e3", [2, 1]),
            ("GPU-9e8d35e3,GPU-1,GPU-47", [1, 7, 5]),
            ("GPU-123,GPU-9e8d35e3", []),
            ("GPU-9e8d35e3,GPU-123,GPU-47", [1]),
            ("GPU-9e8d35e3,GPU-e,GPU-47", [1]),
            ("GPU-9e8d35e3,GPU-47,GPU-9e8", []),
        ],
    )
    def test_uuids(self, value: str, places: list[int]) -> None:
        assert visible_uuids(value, self.LONG) == tuple(self.LONG[place] for place in places)

    def test_mig(self) -> None:
        migs = {self.LONG[0]: ("MIG-89c850dc-9b55-5ab6-bc33-03ba8bd3ba07",)}
        assert visible_uuids("MIG-89c850dc", self.LONG, migs) == migs[self.LONG[0]]


class TestOrderNote:
    NAMES = ("NVIDIA H100 NVL", "NVIDIA L4")

    def test_different_gpus_in_no_certain_order(self) -> None:
        note = order_note({"CUDA_VISIBLE_DEVICES": "1"}, self.NAMES)
        assert note is not None
        assert note.startswith(
            "CUDA_DEVICE_ORDER is FASTEST_FIRST and this machine has different GPUs, so CUDA's"
        )
        assert note.endswith("Set CUDA_DEVICE_ORDER=PCI_BUS_ID, or UUIDs in CUDA_VISIBLE_DEVICES.")

    @pytest.mark.parametrize(
        ("env", "names"),
        [
            ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, NAMES),
            ({"CUDA_VISIBLE_DEVICES": "GPU-11aa"}, NAMES),
            ({}, ("NVIDIA L4", "NVIDIA L4")),
            ({}, ()),
        ],
    )
    def test_nothing_to_say(self, env: dict[str, str], names: Sequence[str]) -> None:
        assert order_note(env, names) is None


class TestSelect:
    VISIBLE = ("GPU-2222", "GPU-11aa")

    def select(self, choice: object, **more: object) -> tuple[str, ...]:
        return select_gpus(choice, visible=self.VISIBLE, all_uuids=UUIDS, **more)  # type: ignore[arg-type]

    def test_auto_is_what_the_trainer_uses(self) -> None:
        assert self.select("auto", used=[1]) == ("GPU-11aa",)
        assert self.select("auto", used=[1, 0, 1]) == ("GPU-11aa", "GPU-2222")
        assert self.select("auto") == ()

    def test_visible(self) -> None:
        assert self.select("visible", used=[1]) == self.VISIBLE

    def test_indices_are_places_among_the_visible(self) -> None:
        assert self.select([0]) == ("GPU-2222",)
        assert self.select((1, 0)) == ("GPU-11aa", "GPU-2222")

    def test_uuids_may_be_invisible_and_short(self) -> None:
        assert self.select(["GPU-3333", "GPU-11b", 0, "GPU-3"]) == ("GPU-3333", "GPU-11bb", "GPU-2222")

    @pytest.mark.parametrize("prefix", ["GPU-", ""])
    def test_torch_is_believed_before_the_order(self, prefix: str) -> None:
        told = {0: f"{prefix}11aa", 1: f"{prefix}2222"}
        assert self.select("auto", used=[0], torch_uuid=told.get) == ("GPU-11aa",)
        assert self.select([1], torch_uuid=told.get) == ("GPU-2222",)

    @pytest.mark.parametrize("told", [None, "9999", ""])
    def test_what_torch_does_not_know_comes_from_the_order(self, told: str | None) -> None:
        assert self.select([1], torch_uuid=lambda _: told) == ("GPU-11aa",)

    @pytest.mark.parametrize("index", [2, -1])
    def test_no_such_index(self, index: int) -> None:
        with pytest.raises(InvalidValueError) as raised:
            self.select([index])
        assert str(raised.value) == (
            f"gpus asks for GPU {index}, counted from 0, but 2 are visible to this process, so it is not "
            "known what to measure. Visible: GPU-2222, GPU-11aa. Check CUDA_VISIBLE_DEVICES."
        )

    @pytest.mark.parametrize(
        ("uuid", "why"),
        [
            (
                "GPU-9",
                "fits no GPU of this machine, so it is not known what to measure. Here are: GPU-11aa, GPU",
            ),
            ("", "fits no GPU of this machine"),
            ("0", "fits no GPU of this machine"),
            ("GPU-11", "fits several GPUs of this machine, so .+ Here are: GPU-11aa, GPU-11bb."),
        ],
    )
    def test_no_such_uuid(self, uuid: str, why: str) -> None:
        with pytest.raises(InvalidValueError, match=f"gpus holds {uuid!r}, which {why}"):
            self.select([uuid])

    @pytest.mark.parametrize("choice", ["all", "0,1", "", 0, None, [True], [1.0], [None]])
    def test_no_such_choice(self, choice: object) -> None:
        with pytest.raises(
            InvalidValueError, match=r"gpus is or holds .+, which names no GPU, .+ 'auto', 'visible'"
        ):
            self.select(choice)

    def test_nothing_visible(self) -> None:
        with pytest.raises(InvalidValueError, match=r"but 0 are visible .+ Visible: none\."):
            select_gpus([0], visible=(), all_uuids=())


class TestPlace:
    @pytest.mark.parametrize(
        ("env", "place"),
        [
            ({}, (0, 0, 1)),
            ({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}, (5, 1, 8)),
            ({"SLURM_PROCID": "6", "SLURM_LOCALID": "2", "SLURM_NTASKS": "8"}, (6, 2, 8)),
            (
                {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "SLURM_PROCID": "6", "SLURM_NTASKS": "8"},
                (0, 0, 1),
            ),
            ({"LOCAL_RANK": "3", "NODE_RANK": "0", "WORLD_SIZE": "4"}, (3, 3, 4)),
            ({"LOCAL_RANK": "3", "WORLD_SIZE": "4"}, (3, 3, 4)),
            ({"LOCAL_RANK": "1", "NODE_RANK": "2", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "12"}, (9, 1, 12)),
        ],
    )
    def test_launchers(self, env: dict[str, str], place: tuple[int, int, int]) -> None:
        rank, local_rank, world_size = place
        assert place_from(env) == Place(rank=rank, local_rank=local_rank, world_size=world_size)

    def test_one_process_a_host_measures_it(self) -> None:
        places = [place_from({"RANK": str(4 + i), "LOCAL_RANK": str(i), "WORLD_SIZE": "8"}) for i in range(4)]
        assert [place.measures_host for place in places] == [True, False, False, False]

    @pytest.mark.parametrize("text", ["-1", "one", "", "1.0"])
    def test_nonsense(self, text: str) -> None:
        with pytest.raises(InvalidValueError) as raised:
            place_from({"RANK": text})
        assert str(raised.value) == (
            f"The environment variable RANK is {text!r}, so this process cannot tell its place in the run. "
            "It must be a whole number of at least 0; unset it if nothing launched this process."
        )

    def test_a_rank_that_does_not_follow(self) -> None:
        with pytest.raises(
            InvalidValueError, match=r"RANK is not set and does not follow from NODE_RANK=1 and LOCAL"
        ):
            place_from({"LOCAL_RANK": "1", "NODE_RANK": "1", "WORLD_SIZE": "4"})
