"""Each rule of pyACL, broken on purpose: the simulator returns the real code and writes it down."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from compiled_models import ACT, SIMULATORS, save

H2D, D2H, D2D = 1, 2, 3


class Program:
    """The bare minimum of public code: one model, loaded and ready to execute."""

    def __init__(self, acl: Any, path: Path) -> None:
        self.acl = acl
        self.path = save(ACT, path / "act.om")
        assert acl.init() == 0 and acl.rt.set_device(0) == 0
        self.context, _ = acl.rt.create_context(0)
        self.model, code = acl.mdl.load_from_file(str(self.path))
        assert code == 0
        self.desc = acl.mdl.create_desc()
        assert acl.mdl.get_desc(self.desc, self.model) == 0
        self.sizes = [acl.mdl.get_input_size_by_index(self.desc, i) for i in range(3)]
        self.inputs, self.in_blocks, self.in_buffers = self.dataset(self.sizes)
        self.outputs, self.out_blocks, self.out_buffers = self.dataset([96])
        self.arrays = [np.zeros(size // 4, np.float32) for size in self.sizes]
        self.write()

    def dataset(self, sizes: list[int]) -> tuple[int, list[int], list[int]]:
        blocks = [self.acl.rt.malloc(size, 0)[0] for size in sizes]
        buffers = [self.acl.create_data_buffer(block, size) for block, size in zip(blocks, sizes, strict=True)]
        dataset = self.acl.mdl.create_dataset()
        for buffer in buffers:
            assert self.acl.mdl.add_dataset_buffer(dataset, buffer) == (dataset, 0)
        return dataset, blocks, buffers

    def write(self) -> None:
        for block, size, array in zip(self.in_blocks, self.sizes, self.arrays, strict=True):
            assert self.acl.rt.memcpy(block, size, self.acl.util.numpy_to_ptr(array), size, H2D) == 0

    def read(self) -> np.ndarray:
        answer = np.empty((1, 4, 6), np.float32)
        assert self.acl.rt.memcpy(self.acl.util.numpy_to_ptr(answer), 96, self.out_blocks[0], 96, D2H) == 0
        return answer

    def execute(self) -> int:
        return int(self.acl.mdl.execute(self.model, self.inputs, self.outputs))

    def end(self) -> None:
        acl = self.acl
        for dataset in (self.inputs, self.outputs):
            assert acl.mdl.destroy_dataset(dataset) == 0
        for buffer in (*self.in_buffers, *self.out_buffers):
            assert acl.destroy_data_buffer(buffer) == 0
        for block in (*self.in_blocks, *self.out_blocks):
            assert acl.rt.free(block) == 0
        assert acl.mdl.unload(self.model) == 0 and acl.mdl.destroy_desc(self.desc) == 0
        assert acl.rt.destroy_context(self.context) == 0 and acl.rt.reset_device(0) == 0
        assert acl.finalize() == 0


@pytest.fixture
def program(acl_rules: Any, tmp_path: Path) -> Program:
    return Program(acl_rules, tmp_path)


def rules(acl: Any) -> list[int]:
    return [int(line.split()[2].rstrip(":")) for line in acl.simulator.journal]


def in_thread(call: Callable[[], Any]) -> Any:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    thread.join(30)
    return answers[0]


def test_a_program_that_keeps_the_rules_computes_and_leaves_an_empty_journal(program: Program) -> None:
    assert program.execute() == 0
    np.testing.assert_array_equal(program.read()[0, :, 0], np.arange(4, dtype=np.float32))
    program.end()
    assert program.acl.simulator.journal == []
    assert program.acl.get_recent_err_msg() is None


@pytest.mark.breaks_rules("acl 1")
def test_rule_1_model_calls_need_init(acl_rules: Any, tmp_path: Path) -> None:
    assert acl_rules.rt.set_device(0) == 0
    assert acl_rules.mdl.load_from_file(str(save(ACT, tmp_path / "act.om"))) == (0, 145001)
    assert rules(acl_rules) == [1]


@pytest.mark.breaks_rules("acl 1")
def test_rule_1_model_calls_after_finalize(program: Program) -> None:
    program.end()
    assert program.execute() == 145001
    assert rules(program.acl) == [1]


def test_rule_2_a_second_init_is_told_and_allowed(acl_rules: Any) -> None:
    assert (acl_rules.init(), acl_rules.init(), acl_rules.finalize()) == (0, 100002, 0)
    assert acl_rules.init() == 0 and acl_rules.finalize() == 0
    assert rules(acl_rules) == []


@pytest.mark.breaks_rules("acl 3")
def test_rule_3_finalize_twice(acl_rules: Any) -> None:
    assert (acl_rules.init(), acl_rules.finalize(), acl_rules.finalize()) == (0, 0, 100037)
    assert rules(acl_rules) == [3]


@pytest.mark.breaks_rules("acl 4")
def test_rule_4_a_thread_without_context(program: Program) -> None:
    acl = program.acl
    assert in_thread(program.execute) == 107002
    assert in_thread(lambda: acl.rt.malloc(4, 0)) == (0, 107002)
    assert in_thread(lambda: acl.rt.create_stream()) == (0, 107002)
    assert in_thread(lambda: acl.rt.get_context()) == (0, 107002)
    assert rules(acl) == [4, 4, 4]


@pytest.mark.breaks_rules("acl 4")
def test_rule_4_destroying_the_context_leaves_the_thread_with_nothing(acl_rules: Any) -> None:
    acl_rules.rt.set_device(0)
    context, _ = acl_rules.rt.create_context(0)
    assert acl_rules.rt.destroy_context(context) == 0
    assert acl_rules.rt.malloc(4, 0) == (0, 107002)
    assert rules(acl_rules) == [4]


@pytest.mark.breaks_rules("acl 5")
def test_rule_5_a_dead_context(program: Program) -> None:
    program.end()
    assert program.acl.rt.set_context(program.context) == 107002
    assert program.acl.rt.set_context(0) == 100000
    assert rules(program.acl) == [5, 5]


@pytest.mark.breaks_rules("acl 6")
def test_rule_6_load_in_one_context_and_execute_in_another(program: Program) -> None:
    acl = program.acl
    acl.rt.create_context(0)
    assert program.execute() == 107003
    assert acl.mdl.unload(program.model) == 107003
    assert rules(acl) == [6, 6]


@pytest.mark.breaks_rules("acl 7")
def test_rule_7_malloc_of_nothing(program: Program) -> None:
    assert program.acl.rt.malloc(0, 0) == (0, 100000)
    assert program.acl.rt.malloc_host(0) == (0, 100000)
    assert rules(program.acl) == [7, 7]


@pytest.mark.breaks_rules("acl 8")
def test_rule_8_free_of_what_is_not_ours(program: Program) -> None:
    acl = program.acl
    host, _ = acl.rt.malloc_host(16)
    block = program.in_blocks[0]
    assert acl.rt.free(host) == 107000 and acl.rt.free_host(block) == 107000
    assert acl.rt.free(block) == 0 and acl.rt.free(block) == 107000
    assert acl.rt.free_host(host) == 0 and acl.rt.free_host(host) == 107000
    assert rules(acl) == [8, 8, 8, 8]


@pytest.mark.breaks_rules("acl 9")
def test_rule_9_memcpy(program: Program) -> None:
    acl, (state, *_), size = program.acl, program.in_blocks, program.sizes[0]
    array = program.arrays[0]
    host = acl.util.numpy_to_ptr(array)
    assert acl.rt.memcpy(state, size, host, size + 4, H2D) == 107000
    assert acl.rt.memcpy(state, size + 4, host, size + 4, H2D) == 107000
    assert acl.rt.memcpy(state, size, host, size, D2H) == 107000
    assert acl.rt.memcpy(state, size, host, size, D2D) == 107000
    assert acl.rt.memcpy(state, size, 0x1234, size, H2D) == 107000
    assert acl.rt.memcpy(0, size, host, size, H2D) == 100000
    assert acl.rt.memcpy(state, size, host, size, 9) == 100000
    assert rules(acl) == [9] * 7
    assert acl.rt.memcpy(state, size, host, 0, H2D) == 0


@pytest.mark.breaks_rules("acl 10")
def test_rule_10_a_collected_host_object(program: Program) -> None:
    acl, size = program.acl, program.sizes[0]
    from_bytes = acl.util.bytes_to_ptr(np.zeros(6, np.float32).tobytes())
    assert acl.rt.memcpy(program.in_blocks[0], size, from_bytes, size, H2D) == 0
    from_array = acl.util.numpy_to_ptr(np.zeros(6, np.float32))
    assert acl.rt.memcpy(program.in_blocks[0], size, from_array, size, H2D) == 0
    assert rules(acl) == [10, 10]
    program.execute()
    assert not np.array_equal(program.read()[0, 0], np.zeros(6)), "the data must be poisoned"


@pytest.mark.breaks_rules("acl 11")
def test_rule_11_datasets_that_do_not_match_the_model(program: Program) -> None:
    acl = program.acl
    assert acl.mdl.execute(program.model, program.outputs, program.outputs) == 145000
    larger, _, _ = program.dataset([program.sizes[0] + 32, *program.sizes[1:]])
    smaller, _, _ = program.dataset([program.sizes[0] - 4, *program.sizes[1:]])
    assert acl.mdl.execute(program.model, larger, program.outputs) == 145000
    assert acl.mdl.execute(program.model, smaller, program.outputs) == 145000
    assert acl.rt.free(program.in_blocks[0]) == 0
    assert program.execute() == 100000
    assert acl.mdl.destroy_dataset(program.inputs) == 0
    assert program.execute() == 100000
    assert rules(acl) == [11] * 5


@pytest.mark.breaks_rules("acl 12")
def test_rule_12_a_model_that_was_unloaded(program: Program) -> None:
    assert program.acl.mdl.unload(program.model) == 0
    assert program.execute() == 145003
    assert program.acl.mdl.unload(program.model) == 145003
    assert program.acl.mdl.get_num_inputs(program.desc) == 0
    assert rules(program.acl) == [12, 12, 12]


@pytest.mark.breaks_rules("acl 13")
def test_rule_13_one_model_in_two_threads_at_once(program: Program) -> None:
    acl = program.acl
    inside, go = threading.Event(), threading.Event()
    known = acl.simulator.models[program.model]
    session = known.session

    class Slow:
        def run(self, *arguments: Any) -> Any:
            inside.set()
            assert go.wait(30)
            return session.run(*arguments)

    known.session = Slow()

    def other() -> None:
        acl.rt.set_context(program.context)
        program.write()
        program.execute()

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(30)
    known.session = session
    assert program.execute() == 0
    go.set()
    thread.join(30)
    assert rules(acl) == [13]


@pytest.mark.breaks_rules("acl 13")
def test_rule_13_inputs_written_by_one_thread_and_executed_by_another(program: Program) -> None:
    acl = program.acl

    def other(call: Callable[[], Any]) -> Any:
        return in_thread(lambda: (acl.rt.set_context(program.context), call()))

    other(program.write)
    assert program.execute() == 0
    assert rules(acl) == [13, 13, 13]
    other(program.read)
    assert rules(acl) == [13] * 4
    program.write()
    assert program.execute() == 0
    program.read()
    assert rules(acl) == [13] * 4


@pytest.mark.breaks_rules("acl 14")
def test_rule_14_outputs_before_the_stream_is_synchronised(program: Program) -> None:
    acl = program.acl
    stream, _ = acl.rt.create_stream()
    assert acl.mdl.execute_async(program.model, program.inputs, program.outputs, stream) == 0
    assert program.read().view(np.uint8)[0, 0, 0] == 0xCD
    assert rules(acl) == [14]
    assert acl.rt.synchronize_stream(stream) == 0
    np.testing.assert_array_equal(program.read()[0, :, 0], np.arange(4, dtype=np.float32))
    assert acl.rt.destroy_stream(stream) == 0
    assert rules(acl) == [14]


@pytest.mark.breaks_rules("acl 15")
def test_rule_15_input_memory_that_was_never_written(program: Program) -> None:
    fresh, _, _ = program.dataset(program.sizes)
    assert program.acl.mdl.execute(program.model, fresh, program.outputs) == 0
    assert rules(program.acl) == [15, 15, 15]


@pytest.mark.breaks_rules("acl 16")
def test_rule_16_a_bad_index(program: Program) -> None:
    mdl, desc = program.acl.mdl, program.desc
    assert mdl.get_input_size_by_index(desc, 3) == 0
    assert mdl.get_output_name_by_index(desc, 1) == ""
    assert mdl.get_input_data_type(desc, -1) == -1
    assert rules(program.acl) == [16, 16, 16]


@pytest.mark.breaks_rules("acl 17")
def test_rule_17_a_data_buffer_destroyed_before_its_dataset_is_executed(program: Program) -> None:
    assert program.acl.destroy_data_buffer(program.in_buffers[1]) == 0
    assert program.execute() == 100000
    assert program.acl.destroy_data_buffer(program.in_buffers[1]) == 100000
    assert rules(program.acl) == [17, 17]


@pytest.mark.breaks_rules("acl 18")
def test_rule_18_a_context_destroyed_under_its_model(program: Program) -> None:
    assert program.acl.rt.destroy_context(program.context) == 0
    assert rules(program.acl) == [18]


@pytest.mark.breaks_rules("acl 18")
def test_rule_18_a_device_reset_before_its_context(acl_rules: Any) -> None:
    acl_rules.rt.set_device(0)
    acl_rules.rt.create_context(0)
    assert acl_rules.rt.reset_device(0) == 0
    assert rules(acl_rules) == [18]


@pytest.mark.breaks_rules("acl 18")
def test_rule_18_a_device_reset_under_its_model(program: Program) -> None:
    assert program.acl.rt.reset_device(0) == 0
    assert program.execute() == 507007
    assert program.acl.rt.reset_device(0) == 507007
    assert rules(program.acl) == [18, 18, 18]


@pytest.mark.breaks_rules("acl 19")
def test_rule_19_leaks_at_finalize(program: Program) -> None:
    assert program.acl.finalize() == 0
    leaks = "\n".join(program.acl.simulator.journal)
    for kind in ("4 device blocks", "4 data buffers", "2 datasets", "1 desc", "1 models", "1 contexts", "1 set_device"):
        assert kind in leaks
    assert set(rules(program.acl)) == {19}


@pytest.mark.breaks_rules("acl 19")
def test_rule_19_leaks_at_exit_reach_the_journal_file(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    code = "import acl; acl.init(); acl.rt.set_device(0); acl.rt.malloc(64, 0)"
    environment = os.environ | {"PYTHONPATH": str(SIMULATORS), "ACL_SIM_JOURNAL": str(journal)}
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=True)
    assert "rule 19: at exit: 1 device blocks" in journal.read_text()


def test_rule_20_the_nth_call_fails_on_demand(program: Program) -> None:
    acl = program.acl
    acl.simulator.fail("mdl.execute", 2, 507015)
    assert (program.execute(), program.execute(), program.execute()) == (0, 507015, 0)
    message = acl.get_recent_err_msg()
    assert message is not None and "fault injected" in message and acl.get_recent_err_msg() is None
    program.end()
    assert rules(acl) == []


def test_rule_20_faults_from_the_environment(tmp_path: Path) -> None:
    code = "import acl; print(acl.init(), acl.rt.set_device(0), acl.rt.malloc(64, 0))"
    environment = {"PYTHONPATH": str(SIMULATORS), "ACL_SIM_FAULTS": "rt.malloc:1=207001,init:2=100003"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, timeout=60, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "0 0 (0, 207001)"


@pytest.mark.breaks_rules("acl 21")
def test_rule_21_memory_cut_out_of_a_block_starts_at_a_multiple_of_64(program: Program) -> None:
    acl = program.acl
    block, _ = acl.rt.malloc(512, 0)
    for offset, expected in ((64, []), (32, [21])):
        dataset = acl.mdl.create_dataset()
        acl.mdl.add_dataset_buffer(dataset, acl.create_data_buffer(block + offset, 96))
        assert acl.mdl.execute(program.model, program.inputs, dataset) == 0
        assert rules(acl) == expected
