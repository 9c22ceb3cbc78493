"""What ``voxtal doctor`` looks at: a module a subject, each with its facts, a probe that collects them, and a judge.

Probes ask the machine; judges are pure, so that what they say of GPUs is tested without any.
"""
