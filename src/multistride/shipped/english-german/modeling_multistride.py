"""Open this directory with transformers: from_pretrained(..., trust_remote_code=True).

The code is that of the package multistride, which must be installed; nothing else is here.
"""

try:
    from multistride.hf import MultistrideConfig, MultistrideForCausalLM, MultistrideForSeq2SeqLM
except ImportError as error:
    raise ImportError(
        "this is a multistride model: pip install 'multistride[hf]', then open it again "
        "(with `import multistride.hf` first, trust_remote_code is not needed)"
    ) from error

__all__ = ["MultistrideConfig", "MultistrideForCausalLM", "MultistrideForSeq2SeqLM"]
