"""What is measured beside us. These modules run in the peers' environment and import nothing of this package's but
``benchmarks.worker`` and ``benchmarks.folders``, which want numpy at most."""
