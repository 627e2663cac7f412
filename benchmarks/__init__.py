"""How fast softcm is, beside what a user would pick instead.

    python -m benchmarks report             one Markdown page, plots, and the figures as JSON
    python -m benchmarks compare A.json B.json
    pytest benchmarks/ --benchmark-only     the same contenders under pytest-benchmark

cases.py says what is timed, contenders.py and peers.py beside what, measure.py how. targets.py
holds the ratios aimed at, costs.py what else a step costs: memory, page faults, instructions, and
where the time of a small step goes.
"""
