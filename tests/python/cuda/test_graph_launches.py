"""Graphs that are launched as CUDA graphs: what the caller holds is never overwritten, and what is read is this call's.

Every test says which calls were captured, or why none was, by the log.
"""

import gc
import logging
import threading

import pytest
import torch

import framejit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
F = torch.nn.functional
FIRST_CALLS = 2


def values(*sizes: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sizes, generator=generator).to("cuda", dtype)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def messages(caplog):
    """What was said about CUDA graphs; a function that takes it, and forgets it."""
    framejit.set_logs("cudagraphs")
    caplog.set_level(logging.INFO, logger="framejit")

    def take() -> list[str]:
        texts = [record.message for record in caplog.records if record.name == "framejit.cudagraphs"]
        caplog.clear()
        return texts

    yield take
    framejit.set_logs("")


def compiled(function, **options):
    return framejit.compile(function, fullgraph=True, mode="reduce-overhead", **options)


def captures(texts: list[str]) -> int:
    return sum(text.startswith("captured") for text in texts)


def chain(x, weight):
    for _ in range(4):
        x = torch.tanh(x @ weight) + x
    return x


def test_results_are_kept_by_later_calls(messages):
    function, weight = compiled(chain), values(32, 32)
    inputs = [values(8, 32, seed=seed) for seed in range(8)]
    results = [function(x, weight) for x in inputs]
    assert captures(messages()) == 1
    for x, result in zip(inputs, results, strict=True):
        torch.testing.assert_close(result, chain(x, weight))
    assert len({result.data_ptr() for result in results}) == len(results)


def test_inputs_are_read_at_their_address_or_copied(messages):
    function, weight, x = compiled(chain), values(32, 32), values(8, 32)
    for seed in range(6):
        x.copy_(values(8, 32, seed=seed))
        torch.testing.assert_close(function(x, weight), chain(x, weight))
    assert messages()[0].endswith("0 of 2 inputs copied")
    others = [values(8, 32, seed=seed) for seed in range(6)]
    for other in others:
        torch.testing.assert_close(function(other, weight), chain(other, weight))
    assert [text[-len("1 of 2 inputs copied") :] for text in messages()] == ["1 of 2 inputs copied"]
    weight.mul_(0.5)
    torch.testing.assert_close(function(x, weight), chain(x, weight))


def test_shapes_have_captures_of_their_own(messages):
    function, weight = compiled(chain), values(32, 32)
    for _ in range(FIRST_CALLS + 3):
        for rows in (1, 4, 9, 16):
            x = values(rows, 32, seed=rows)
            torch.testing.assert_close(function(x, weight), chain(x, weight))
    assert captures(messages()) >= 4


def test_strided_and_misaligned_inputs(messages):
    def function(x, y):
        return torch.softmax(x * 2 + y, -1).t() @ x

    whole, jit = values(64, 100), compiled(function)
    for start in (0, 1, 3, 2, 0, 1):
        x, y = whole[start : start + 16, start : start + 24], whole[start, :24].expand(16, 24)
        torch.testing.assert_close(jit(x, y), function(x, y))
    assert captures(messages()) >= 1


def test_results_keep_their_aliasing(messages):
    def function(x):
        y = torch.relu(x @ x)
        return y, y.view(-1), y[1:, 2:], x, torch.cat([y, x])

    jit = compiled(function)
    for seed in range(6):
        x = values(8, 8, seed=seed)
        got, expected = jit(x), function(x)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b)
            assert a.stride() == b.stride() and a.storage_offset() == b.storage_offset()
        assert got[3] is x
        got[0].zero_()
        assert not got[1].any() and not got[2].any() and got[4].any()
    assert captures(messages()) == 1


def test_inputs_are_written(messages):
    def function(x, total):
        total.add_(torch.softmax(x @ x, -1))
        x.mul_(2)
        return total.sum() + x.mean()

    jit, total, expected_total = compiled(function), values(8, 8), values(8, 8)
    for seed in range(7):
        x, other = values(8, 8, seed=seed), values(8, 8, seed=seed)
        torch.testing.assert_close(jit(x, total), function(other, expected_total))
        torch.testing.assert_close(x, other)
        torch.testing.assert_close(total, expected_total)
    assert captures(messages()) == 1


def test_random_numbers_are_eagers(messages):
    def function(x):
        return F.dropout(x @ x, 0.5, True) + torch.rand_like(x), torch.randn(100, device="cuda")

    jit, x = compiled(function), values(64, 64)
    torch.manual_seed(7)
    expected = [function(x) for _ in range(6)]
    torch.manual_seed(7)
    got = [jit(x) for _ in range(6)]
    torch.testing.assert_close(got, expected)
    assert captures(messages()) == 1
    after = torch.randn(4, device="cuda")
    torch.manual_seed(7)
    for _ in range(6):
        function(x)
    torch.testing.assert_close(after, torch.randn(4, device="cuda"))


@pytest.mark.parametrize("late", ["captures", "launches"])
def test_random_numbers_beside_streams_that_are_late(messages, late):
    """Graphs share the memory that tells them where the generator is, and captures write it, on a stream of torch's."""

    def function(x):
        return F.dropout(x, 0.5, True), torch.rand_like(x)

    jit, x = compiled(function), values(64, 64)
    streams = [torch.cuda.Stream() for _ in range(40)]  # each of those that torch has
    torch.manual_seed(7)
    expected = [function(x) for _ in range(8)]
    torch.cuda.synchronize()
    torch.manual_seed(7)
    got = []
    for call in range(8):
        if late == "captures" and call == FIRST_CALLS:
            for stream in streams:
                with torch.cuda.stream(stream):
                    torch.cuda._sleep(5_000_000)
        with torch.cuda.stream(streams[call % 2] if late == "launches" else torch.cuda.default_stream()):
            if late == "launches" and call % 2 == 0:
                torch.cuda._sleep(20_000_000)
            got.append(jit(x))
    torch.cuda.synchronize()
    torch.testing.assert_close(got, expected)
    assert captures(messages()) == (1 if late == "captures" else 2)


def test_streams_do_not_share_memory(messages):
    jit, weight = compiled(chain), values(256, 256)
    streams = [torch.cuda.Stream() for _ in range(3)]
    inputs = [values(256, 256, seed=seed) for seed in range(3)]
    torch.cuda.synchronize()
    results = []
    for _ in range(FIRST_CALLS + 4):
        for stream, x in zip(streams, inputs, strict=True):
            with torch.cuda.stream(stream):
                results.append((x, jit(x, weight)))
    torch.cuda.synchronize()
    assert captures(messages()) == 3
    for x, result in results:
        torch.testing.assert_close(result, chain(x, weight))


def test_a_stream_that_is_late(messages):
    jit, weight = compiled(chain), values(64, 64)
    x = values(64, 64)
    for _ in range(FIRST_CALLS + 1):
        jit(x, weight)
    new = values(64, 64, seed=1)
    torch.cuda.synchronize()
    torch.cuda._sleep(50_000_000)
    x.copy_(new)
    late = jit(x, weight)
    x.zero_()
    torch.testing.assert_close(late, chain(new, weight))
    assert captures(messages()) == 1


def test_threads(messages):
    jit, weight = compiled(chain), values(32, 32)
    failures = []

    def work(seed: int) -> None:
        with torch.no_grad():
            for turn in range(30):
                x = values(8, 32, seed=100 * seed + turn)
                if not torch.allclose(jit(x, weight), chain(x, weight), rtol=1e-4, atol=1e-5):
                    failures.append((seed, turn))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_callers_own_capture(messages):
    jit, weight, x = compiled(chain), values(32, 32), values(8, 32)
    for _ in range(FIRST_CALLS + 2):
        jit(x, weight)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = jit(x, weight)
    x.copy_(values(8, 32, seed=1))
    graph.replay()
    torch.testing.assert_close(got, chain(x, weight))


def test_inference_mode():
    jit, weight = compiled(chain), values(32, 32)
    with torch.inference_mode():
        for seed in range(5):
            x = values(8, 32, seed=seed)
            got = jit(x, weight)
            assert got.is_inference()
            torch.testing.assert_close(got, chain(x, weight))


def test_gradients():
    """Torch's autograd differentiates the torch-level graph; nothing of it is captured."""

    def function(x, weight):
        return chain(x, weight).square().sum()

    jit = compiled(function)
    with torch.enable_grad():
        for seed in range(6):
            leaves = [[values(8, 32, seed=seed), values(32, 32, seed=9) / 6] for _ in range(2)]
            for pair in leaves:
                for leaf in pair:
                    leaf.requires_grad_()
            function(*leaves[0]).backward()
            jit(*leaves[1]).backward()
            for expected, got in zip(*leaves, strict=True):
                torch.testing.assert_close(got.grad, expected.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: (x @ x).cpu() + 1, "what is not on cuda:0"),
    ],
)
def test_what_is_not_captured(messages, function, reason):
    jit, x = framejit.compile(function, mode="reduce-overhead"), values(8, 8)
    for _ in range(5):
        jit(x)
    texts = messages()
    assert captures(texts) == 0
    assert not texts or reason in texts[0]


def test_the_programs_own_generator_goes_on_from_call_to_call():
    generator = torch.Generator("cuda")

    def function(x):
        return torch.rand(4, device="cuda", generator=generator) + torch.relu(x @ x).sum()

    jit, x = framejit.compile(function, mode="reduce-overhead"), values(8, 8)
    found = []
    for run in (function, jit):
        generator.manual_seed(5)
        found.append(torch.stack([run(x) for _ in range(6)]))
    torch.testing.assert_close(*found)


def test_numbers_on_the_cpu_are_read_in_each_call(messages):
    def function(x, number):
        return torch.relu(x @ x) * number

    jit, x = compiled(function), values(8, 8)
    for turn in range(5):
        number = torch.tensor(float(turn))
        torch.testing.assert_close(jit(x, number), function(x, number))
    assert captures(messages()) == 0


def test_a_capture_that_fails_leaves_torch_as_it_was(messages):
    def function(x):
        return torch.linalg.inv(torch.relu(x @ x) + torch.eye(8, device="cuda")) * 2

    jit, x = compiled(function), values(8, 8)
    for _ in range(5):
        torch.testing.assert_close(jit(x), function(x))
    messages()
    torch.cuda.synchronize()
    torch.testing.assert_close(compiled(chain)(x, x), chain(x, x))
    torch.manual_seed(3)
    torch.rand(5, device="cuda")


def test_memory_is_given_back(messages):
    before = torch.cuda.memory_allocated()
    jit, weight, x = compiled(chain), values(512, 512), values(512, 512)
    for _ in range(FIRST_CALLS + 2):
        jit(x, weight)
    assert captures(messages()) == 1
    del jit, weight, x
    framejit.reset()
    gc.collect()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before


def test_launches_that_outlast_the_device_are_captured_by_themselves(messages):
    def function(x, weight):
        for _ in range(40):
            x = torch.relu(x @ weight) + 1
        return x

    jit, weight = framejit.compile(function, fullgraph=True), values(32, 32) / 6
    for seed in range(40):
        x = values(8, 32, seed=seed)
        got = jit(x, weight)
        torch.testing.assert_close(got, function(x, weight))
        torch.cuda.synchronize()
    texts = messages()
    assert captures(texts) >= 1 and not any("one by one" in text for text in texts), texts


def test_a_device_that_is_busy_is_left_alone(messages):
    def function(x):
        for _ in range(6):
            x = torch.relu(x @ x) * 1e-3
        return x

    jit, x = framejit.compile(function, fullgraph=True), values(4096, 4096)
    for _ in range(16):
        jit(x)
        torch.cuda.synchronize()
    texts = messages()
    assert captures(texts) == 0 and "the device works" in texts[0]
