"""What a network of one hidden layer tends to with its width, in NumPy: its tangent kernel, and the laws by refits."""

import numpy as np
from small_networks import COUNT


def numpy_ntk(activation, x, z):
    """NTK of one hidden layer, weight_std √2, no biases (Cho and Saul 2009, Williams 1997)."""
    variance, d = 2.0, len(x)
    qx, qz, k = (variance * np.dot(a, b) / d for a, b in ((x, x), (z, z), (x, z)))
    if activation == "relu":
        angle = np.arccos(np.clip(k / np.sqrt(qx * qz), -1, 1))
        dual = np.sqrt(qx * qz) * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
        slope = (np.pi - angle) / (2 * np.pi)
    else:
        dual = 2 / np.pi * np.arcsin(2 * k / np.sqrt((1 + 2 * qx) * (1 + 2 * qz)))
        slope = 4 / np.pi / np.sqrt((1 + 2 * qx) * (1 + 2 * qz) - 4 * k**2)
    return variance * (dual + slope * k)


def numpy_law(activation, X, y, poison, x, ridge):
    """Clean prediction, Δf, ∇Δf and Λ by brute force: two refits, gradients by central differences."""
    location = np.asarray(poison.location)
    rho = (len(X) + COUNT) * ridge
    training = np.vstack([X, location])

    def gram(A, B):
        return np.array([[numpy_ntk(activation, a, b) for b in B] for a in A])

    K = gram(training, training)
    clean = np.linalg.solve(K[:-1, :-1] + rho * np.eye(len(X)), y)
    noise = np.diag(np.append(np.full(len(X), rho), rho / COUNT))
    change = np.linalg.solve(K + noise, np.append(y, float(poison.label))) - np.append(clean, 0.0)

    def efficacy(points):
        return gram(points, training) @ change

    step = 1e-5
    shifts = step * np.eye(X.shape[1])
    gradient = np.stack([(efficacy(x + shift) - efficacy(x - shift)) / (2 * step) for shift in shifts], axis=-1)
    return {
        "clean": gram(x, X) @ clean,
        "efficacy": efficacy(x),
        "gradient": gradient,
        "spike": np.sum(gradient**2, axis=-1),
    }
