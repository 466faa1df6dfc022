"""What ``scripts/bench`` runs: one part of the benchmark a module, each in a process of its own.

Loads are bounded in number and time; DDS stays on loopback or between network namespaces made for the purpose.
"""
