/* SPDX-License-Identifier: Apache-2.0
 *
 * One input of the decoder's fuzzing: decoded, and where that goes well used as its executors would.
 */
#ifndef WHERRY_TESTS_DECODE_TARGET_H
#define WHERRY_TESTS_DECODE_TARGET_H

#include <stddef.h>
#include <stdint.h>

struct planmaker;

/* True where the plan was accepted. Aborts where an accepted plan breaks what the decoder promises. */
int decode_target(const uint8_t *data, size_t size);
/* A plan with at least one of every operation. */
void decode_make_full_plan(struct planmaker *p);

#endif
