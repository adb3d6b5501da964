"""Print what the first call of each public function costs: python ci/compile_times.py [float32|float64]

Each call runs in a fresh process with an empty cache of compiled code, after its imports (Numba among them). Counted is
the processor time of the call, so compilation, and writing the cache; the call itself takes microseconds.
"""

import os
import subprocess
import sys
import tempfile

CALLS = {
    "cross_entropy, 10 classes": "f.cross_entropy(z, y)",
    "cross_entropy, 1000 classes": "f.cross_entropy(wide, y)",
    "cross_entropy, distributions": "f.cross_entropy(z, p)",
    "cross_entropy, label_smoothing": "f.cross_entropy(z, y, label_smoothing=0.1)",
    "nll": "f.nll(np.log(p), y)",
    "log_loss": "f.log_loss(p, y)",
    "binary_cross_entropy": "f.binary_cross_entropy(z[:, 0], y)",
    "binary_log_loss": "f.binary_log_loss(p[:, 0], y)",
    "log_likelihood": "f.log_likelihood(z, y)",
    "perplexity": "f.perplexity(z, y)",
    "logsumexp": "f.logsumexp(z)",
    "softmax": "f.softmax(z)",
    "log_softmax": "f.log_softmax(z)",
    "entropy": "f.entropy(p)",
    "kl_divergence": "f.kl_divergence(p, p)",
    "score": "f.score(z, y)",
}
PROGRAM = """
import time, numpy as np, fastxent as f, fastxent.losses, fastxent.scoring.scorer
z, wide, y = np.zeros((32, 10), "{dtype}"), np.zeros((32, 1000), "{dtype}"), np.zeros(32, np.int64)
p = np.full_like(z, 0.1)
before = time.process_time()
{call}
print(time.process_time() - before)
"""


def compile_time_s(call: str, dtype: str = "float32") -> float:
    """Processor seconds of a call's first run, on an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, "-c", PROGRAM.format(call=call, dtype=dtype)]
        environment = os.environ | {"FASTXENT_CACHE_DIR": folder}
        return float(subprocess.run(program, env=environment, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    dtype = sys.argv[1] if len(sys.argv) > 1 else "float32"
    for name, call in CALLS.items():
        print(f"{name:32} {dtype} {compile_time_s(call, dtype):6.2f} s", flush=True)
