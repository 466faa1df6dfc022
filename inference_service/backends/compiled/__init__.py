"""Policies compiled for a vendor's runtime: one facade, adapters per model family, sessions per runtime.

======================  =========================================================================
``session``             what a runtime offers: tensors in, tensors out
``sidecar``             ``config.om.json`` and ``config.rknn.json``, typed and checked
``adapters``            model families: input order, images and language, decoding of the chunk
``policy``              ``CompiledPolicyWrapper``, the facade behind ``PolicyWrapper``
``ascend``…             factories of the backends; a vendor's module is imported there and not before
======================  =========================================================================
"""
