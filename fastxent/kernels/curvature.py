"""The Hessian of the cross-entropy in the logits times a direction, row by row: Σ_j (q_i δ_ij - q_i q_j) u_j."""

from fastxent.kernels.jit import compiled


@compiled
def times_curvature(q, u, bias, weight, factor):
    """Directions u + bias of rows of logits -> factor times the rows' weights times q (u - Σ q u), in their place.

    Parameters
    ----------
    q : float32 or float64 [n, k], the rows' probabilities; of two classes that of the second alone, k = 1
    u : the same dtype and shape
    bias : float64[k]
    weight : float64[n], or float64[0] for a weight of 1
    factor : float
    """
    n, k = q.shape
    for i in range(n):
        mean, f = 0.0, factor * weight[i] if weight.size > 0 else factor
        for j in range(k):
            mean += q[i, j] * (u[i, j] + bias[j])
        for j in range(k):
            u[i, j] = f * q[i, j] * (u[i, j] + bias[j] - mean)
