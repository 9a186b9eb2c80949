"""
misconception: pixels are resampled as if they were independent
fails: [a5-comparison-test]
says: "Resample people"
"""

# %% a5-comparison
rivals = {"positional Gaussian": PositionalGaussian((32, 32), levels=1), "brightness": IntensityThreshold()}
found = {"mine": mine.anomaly_map(test_images).numpy()}
found |= {name: train(d, batch(train_people.images)).anomaly_map(test_images).numpy() for name, d in rivals.items()}
labels, scores = test_people.masks[test_people.brains], {name: m[test_people.brains] for name, m in found.items()}
comparison = {name: rank_metrics(values, labels).ap for name, values in scores.items()}
rng, gaps = np.random.default_rng(0), []
for _ in range(60):
    drawn = rng.integers(0, len(labels), len(labels))
    values = [rank_metrics(scores[name][drawn], labels[drawn]).ap for name in ("mine", "positional Gaussian")]
    gaps.append(values[0] - values[1])
low, high = np.quantile(gaps, [0.025, 0.975])
gap = {"value": comparison["mine"] - comparison["positional Gaussian"], "low": low, "high": high}
