// The YAML file: a mapping of keys to scalars, with one level of sections.
//
// Unknown and repeated keys are errors, with their line, for a misspelt option that is silently
// ignored is worse than none.
// Owns: libyaml's parser and document for the time of one call. Failure: see config.h.
// Read next: config_priv.h.
#include "api/config_priv.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

struct file {
    struct af_config *config;
    const char *name;
    yaml_document_t *document;
    bool *seen; // per option: it has been set
    struct af_error *err;
};

static int at_line(const struct file *file, const yaml_node_t *node, const char *what,
                   const char *key)
{
    return af_error_set(file->err, AF_INVALID_ARGUMENT, "%s:%zu: %s '%.100s'", file->name,
                        node->start_mark.line + 1, what, key);
}

// A key as text, or NULL after an error.
static const char *key_text(const struct file *file, const yaml_node_t *node)
{
    if (node->type == YAML_SCALAR_NODE &&
        strlen((const char *)node->data.scalar.value) == node->data.scalar.length)
        return (const char *)node->data.scalar.value;
    at_line(file, node, "a key must be a plain word, not", "a list or mapping");
    return NULL;
}

static size_t find_option(const char *section, const char *key)
{
    for (size_t i = 0; i < config_option_count; i++) {
        const char *own = config_options[i].section;
        bool same = section && own ? strcmp(section, own) == 0 : section == own;
        if (same && strcmp(config_options[i].key, key) == 0)
            return i;
    }
    return config_option_count;
}

static bool is_section(const char *key)
{
    for (size_t i = 0; i < config_option_count; i++)
        if (config_options[i].section && strcmp(config_options[i].section, key) == 0)
            return true;
    return false;
}

static int apply(const struct file *file, const char *section, const char *key,
                 const yaml_node_t *key_node, const yaml_node_t *value)
{
    size_t index = find_option(section, key);
    if (index == config_option_count)
        return at_line(file, key_node, section ? "unknown key in this section:" : "unknown key",
                       key);
    if (file->seen[index])
        return at_line(file, key_node, "this key is there twice:", key);
    file->seen[index] = true;
    if (value->type != YAML_SCALAR_NODE)
        return at_line(file, key_node, "one value is needed for", key);
    const char *text = (const char *)value->data.scalar.value;
    if (strlen(text) != value->data.scalar.length)
        return at_line(file, key_node, "there is a NUL in the value of", key);
    char where[256];
    snprintf(where, sizeof where, "%s:%zu: %s", file->name, value->start_mark.line + 1, key);
    bool null = value->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
                (strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
    return config_set(file->config, &config_options[index], null ? "" : text, where, file->err);
}

static int apply_mapping(const struct file *file, const yaml_node_t *mapping, const char *section)
{
    for (const yaml_node_pair_t *pair = mapping->data.mapping.pairs.start;
         pair < mapping->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key_node = yaml_document_get_node(file->document, pair->key);
        const yaml_node_t *value = yaml_document_get_node(file->document, pair->value);
        const char *key = key_text(file, key_node);
        if (!key)
            return -1;
        bool nested = !section && value->type == YAML_MAPPING_NODE && is_section(key);
        if (nested ? apply_mapping(file, value, key) : apply(file, section, key, key_node, value))
            return -1;
    }
    return 0;
}

static int apply_document(struct file *file)
{
    const yaml_node_t *root = yaml_document_get_root_node(file->document);
    if (!root)
        return 0; // nothing but comments
    bool empty = root->type == YAML_SCALAR_NODE && root->data.scalar.length == 0;
    if (empty)
        return 0;
    if (root->type != YAML_MAPPING_NODE)
        return af_error_set(file->err, AF_INVALID_ARGUMENT,
                            "%s:%zu: the file must be a mapping of keys to values", file->name,
                            root->start_mark.line + 1);
    return apply_mapping(file, root, NULL);
}

int af_config_parse_yaml(struct af_config *config, const char *name, const char *text, size_t len,
                         struct af_error *err)
{
    yaml_parser_t parser;
    yaml_document_t document;
    if (!yaml_parser_initialize(&parser))
        return af_error_set(err, AF_RESOURCE_EXHAUSTED, "%s: out of memory", name);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
    if (!yaml_parser_load(&parser, &document)) {
        af_error_set(err, AF_INVALID_ARGUMENT, "%s:%zu: not valid YAML: %s", name,
                     parser.problem_mark.line + 1,
                     parser.problem ? parser.problem : "cannot be read");
        yaml_parser_delete(&parser);
        return -1;
    }
    bool *seen = calloc(config_option_count, sizeof *seen);
    struct file file = {config, name, &document, seen, err};
    int rc = seen ? apply_document(&file)
                  : af_error_set(err, AF_RESOURCE_EXHAUSTED, "%s: out of memory", name);
    free(seen);
    yaml_document_delete(&document);
    yaml_parser_delete(&parser);
    return rc;
}
