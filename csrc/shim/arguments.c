/* SPDX-License-Identifier: Apache-2.0
 *
 * Go's flags, as far as containerd uses them: -name value, -name=value, two dashes as well, up to the first word that is no flag.
 */
#include "shim.h"

#include <string.h>

struct shim_text shim_word(const char *word)
{
	return (struct shim_text){ word, strlen(word) };
}

bool shim_same(struct shim_text a, struct shim_text b)
{
	return a.size == b.size && (!a.size || !memcmp(a.data, b.data, a.size));
}

bool shim_is(struct shim_text text, const char *word)
{
	return shim_same(text, shim_word(word));
}

static struct shim_text *place_of(struct shim_call *call, struct shim_text name)
{
	static struct shim_text ignored;
	const struct { const char *name; struct shim_text *place; } known[] = {
		{ "namespace", &call->namespace }, { "address", &call->address },   { "publish-binary", &call->binary },
		{ "id", &call->id },               { "bundle", &call->bundle },     { "socket", &ignored },
		{ "debug-socket", &ignored },
	};

	for (size_t i = 0; i < WHERRY_LENGTH(known); i++)
		if (shim_is(name, known[i].name))
			return known[i].place;
	return NULL;
}

static bool usable_id(struct shim_text id)
{
	return id.size && !memchr(id.data, '/', id.size) && !shim_is(id, ".") && !shim_is(id, "..");
}

bool shim_arguments(struct shim_call *call, char **argv)
{
	char **word = argv + 1;

	for (; *word && **word == '-' && strcmp(*word, "-") && strcmp(*word, "--"); word++) {
		const char *name = *word + ((*word)[1] == '-' ? 2 : 1), *equals = strchr(name, '=');
		struct shim_text text = { name, equals ? (size_t)(equals - name) : strlen(name) };
		struct shim_text *place = place_of(call, text);

		if (!place && !equals && shim_is(text, "debug")) {
			call->debug = true;
			continue;
		}
		if (!place || (!equals && !*++word))
			return false;
		*place = shim_word(equals ? equals + 1 : *word);
	}
	call->action = *word;
	return *word && !word[1] && (!strcmp(*word, "start") || !strcmp(*word, "delete")) && call->namespace.size && usable_id(call->id);
}
