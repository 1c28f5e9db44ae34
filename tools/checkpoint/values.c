/* SPDX-License-Identifier: Apache-2.0 */
/* Random values that depend on (seed, tensor name, element) and on nothing else.
 *
 * A counter-based generator: element i of a tensor is hash(key + i * odd constant), with the
 * output function of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
 * Generators, OOPSLA 2014). So any byte of a checkpoint can be made alone, by any thread, in any
 * order, and sharding does not change a value. One hash gives four 16-bit uniforms; their sum
 * (Irwin-Hall, n = 4) is near enough to a normal for weights and costs no transcendental
 * function: about 2 ns for an element, so that the disk is the slower side. */
#include <string.h>

#include "checkpoint.h"

#define GOLDEN 0x9e3779b97f4a7c15u

static inline uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t ckpt_key(uint64_t seed, const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (const char *c = name; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
    return mix(hash ^ mix(seed + GOLDEN));
}

void ckpt_values(uint64_t key, uint64_t first, size_t count, float mean, float deviation,
                 float *out_values)
{
    /* Sum of four uniforms on 0..65535: mean 2 * 65535, deviation sqrt((65536^2 - 1) / 3). */
    const float scale = deviation / 37837.2273f;
    const uint64_t low_halves = 0x0000ffff0000ffffu;
    for (size_t i = 0; i < count; i++) {
        uint64_t z = mix(key + (first + i) * GOLDEN);
        uint64_t pairs = (z & low_halves) + ((z >> 16) & low_halves);
        int32_t sum = (int32_t)(uint32_t)(pairs + (pairs >> 32)) - 131070;
        out_values[i] = mean + scale * (float)sum;
    }
}

size_t ckpt_dtype_bytes(enum ckpt_dtype dtype)
{
    return dtype == CKPT_F32 ? 4 : dtype == CKPT_U8 ? 1 : 2;
}

const char *ckpt_dtype_text(enum ckpt_dtype dtype)
{
    static const char *const texts[] = {"BF16", "F16", "F32", "U8"};
    return texts[dtype];
}

static inline uint16_t bf16_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* Finite values below 65520 only: what this program makes. */
static inline uint16_t f16_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t sign = bits >> 16 & 0x8000;
    uint32_t exponent = bits >> 23 & 0xff;
    uint32_t mantissa = (bits & 0x7fffff) | 0x800000;
    /* Half has 13 bits fewer, and one fewer still for each exponent below its least (113). */
    uint32_t drop = exponent >= 113 ? 13 : 13 + (113 - exponent);
    if (drop > 25)
        return (uint16_t)sign;
    uint32_t kept = mantissa >> drop;
    uint32_t rest = mantissa & ((1u << drop) - 1);
    uint32_t half = 1u << (drop - 1);
    kept += rest > half || (rest == half && (kept & 1));
    /* kept holds the leading one of a normal number, which carries into the exponent below. */
    uint32_t base = exponent >= 113 ? (exponent - 113) << 10 : 0;
    return (uint16_t)(sign | (base + kept));
}

void ckpt_encode(enum ckpt_dtype dtype, const float *values, size_t count, unsigned char *out)
{
    uint16_t bits;
    switch (dtype) {
    case CKPT_BF16:
        for (size_t i = 0; i < count; i++) {
            bits = bf16_bits(values[i]);
            memcpy(out + 2 * i, &bits, 2);
        }
        break;
    case CKPT_F16:
        for (size_t i = 0; i < count; i++) {
            bits = f16_bits(values[i]);
            memcpy(out + 2 * i, &bits, 2);
        }
        break;
    case CKPT_F32:
        memcpy(out, values, 4 * count);
        break;
    default:
        for (size_t i = 0; i < count; i++)
            out[i] = (unsigned char)values[i];
    }
}
