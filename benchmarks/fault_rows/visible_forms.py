"""What CUDA shows for every form of `CUDA_VISIBLE_DEVICES`: the parser table of F9, written by hand.

Source: CUDA C programming guide, "CUDA environment variables": the first entry that names no device ends the list;
UUIDs may be prefixes that fit one device; a device named twice leaves none. An instance is metered with its whole GPU.
"""

from __future__ import annotations

from collections.abc import Mapping

A, B, C = "GPU-aaaa1111", "GPU-aabb2222", "GPU-cccc3333"
MACHINE = f"""
gpu {A} NVIDIA H100 80GB HBM3
gpu {B} NVIDIA H100 80GB HBM3
gpu {C} NVIDIA H100 80GB HBM3
mig 2 MIG-1111
mig 2 MIG-2222
""".lstrip()

FORMS: Mapping[str | None, tuple[str, ...]] = {
    None: (A, B, C),
    "": (),
    " ": (),
    "-1": (),
    "0": (A,),
    "1": (B,),
    "0,1,2": (A, B, C),
    "2,0,1": (C, A, B),
    "2, 0": (C, A),
    " 1 ,0": (B, A),
    "1,-1,0": (B,),
    "0,3,1": (A,),
    "3,0": (),
    "99999999999999999999": (),
    "0,0": (),
    "1,2,1": (),
    "0,x,1": (A,),
    "x": (),
    "NoDevFiles": (),
    "none": (),
    "all": (),
    "+1": (B,),
    "1abc": (B,),
    "0;1": (A,),
    "0.5": (A,),
    "0x1": (A,),
    "0,,1": (A,),
    ",0": (),
    "0,": (A,),
    A: (A,),
    f"{B},{A}": (B, A),
    f"{A},{A}": (),
    "GPU-c": (C,),
    "GPU-aab": (B,),
    "GPU-aa": (),
    "GPU-aaaa,GPU-c": (A, C),
    "GPU-zzzz": (),
    f"{A},GPU-zzzz,{B}": (A,),
    f"{A},1": (A,),
    f"{A}, {B}": (A,),
    f"0,{B}": (A,),
    A.lower(): (),
    A.upper(): (),
    "GPU-": (),
    "MIG-1111": (C,),
    "MIG-1111,MIG-2222": (C,),
    "MIG-2": (C,),
    "MIG-": (),
    "MIG-9999": (),
    "MIG-1111,GPU-aaaa": (C,),
    "GPU-aaaa,MIG-1111": (A,),
    "0,MIG-1111": (A,),
}
