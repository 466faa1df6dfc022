/* A stand-in for Rockchip's librknnrt.so, for the unmodified rknnlite wheel under emulation.
 *
 * Declarations as in rknn_api.h of rknpu2. A "model" is an affine map, little endian:
 *   char[8] "STUBRKNN", u32 inputs, u32 output rank, u32[4] output dims,
 *   per input: u32 rank, u32[4] dims, u32 format (0 NCHW, 1 NHWC, 3 undefined), then
 *   per input: float[elements of the output][elements of the input].
 * Every call goes as a line to the file in RKNN_STUB_LOG. RKNN_STUB_FAULTS="run:3=-1,outputs_get:2+=-9" makes the
 * n-th call of a function ("+": every one from then on) return a code.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_INPUTS 8
enum { QUERY_IN_OUT_NUM = 0, QUERY_INPUT_ATTR = 1, QUERY_OUTPUT_ATTR = 2, QUERY_SDK_VERSION = 5 };
enum { FLOAT32 = 0, FLOAT16 = 1, ERR_PARAM_INVALID = -5, ERR_MODEL_INVALID = -6, ERR_INPUT_INVALID = -8 };

typedef uint64_t rknn_context;
typedef struct { uint32_t n_input, n_output; } rknn_input_output_num;
typedef struct {
    uint32_t index, n_dims, dims[16];
    char name[256];
    uint32_t n_elems, size;
    int fmt, type, qnt_type;
    int8_t fl;
    int32_t zp;
    float scale;
    uint32_t w_stride, size_with_stride;
    uint8_t pass_through;
    uint32_t h_stride;
} rknn_tensor_attr;
typedef struct { char api_version[256], drv_version[256]; } rknn_sdk_version;
typedef struct { uint32_t index; void *buf; uint32_t size; uint8_t pass_through; int type, fmt; } rknn_input;
typedef struct { uint8_t want_float, is_prealloc; uint32_t index; void *buf; uint32_t size; } rknn_output;

typedef struct { uint32_t rank, dims[4], fmt, elements; float *weights, *values; } Input;
typedef struct { uint32_t inputs, rank, dims[4], elements; Input in[MAX_INPUTS]; float *result; } Model;

static void note(const char *format, long a, long b, long c) {
    const char *path = getenv("RKNN_STUB_LOG");
    FILE *log = path ? fopen(path, "a") : NULL;
    if (!log) return;
    fprintf(log, format, a, b, c);
    fputc('\n', log);
    fclose(log);
}

/* The code that this call of `name` shall return; calls are counted from when this
 * library was loaded or RKNN_STUB_FAULTS changed. */
static int fault(const char *name) {
    static struct { char name[32]; int calls; } counts[16];
    static char known[256];
    const char *faults = getenv("RKNN_STUB_FAULTS");
    if (!faults) faults = "";
    if (strcmp(known, faults)) {
        memset(counts, 0, sizeof counts);
        snprintf(known, sizeof known, "%s", faults);
    }
    int slot = 0;
    while (counts[slot].name[0] && strcmp(counts[slot].name, name)) slot++;
    strcpy(counts[slot].name, name);
    int call = ++counts[slot].calls;
    for (const char *at = faults; (at = strstr(at, name)); at += strlen(name)) {
        int from = 0, code = 0;
        char more = 0;
        if (sscanf(at + strlen(name), ":%d+=%d", &from, &code) == 2) more = 1;
        else if (sscanf(at + strlen(name), ":%d=%d", &from, &code) != 2) continue;
        if (call == from || (more && call > from)) return code;
    }
    return 0;
}

static uint32_t product(uint32_t rank, const uint32_t *dims) {
    uint32_t count = 1;
    for (uint32_t i = 0; i < rank; i++) count *= dims[i];
    return count;
}

static void destroy(Model *model) {
    for (uint32_t i = 0; i < model->inputs; i++) { free(model->in[i].weights); free(model->in[i].values); }
    free(model->result);
    free(model);
}

int rknn_init(rknn_context *context, void *data, uint32_t size, uint32_t flag, void *extend) {
    (void)extend;
    int code = fault("init");
    note("init size=%ld flag=%ld code=%ld", size, flag, code);
    if (code) return code;
    const char *at = data, *end = at + size;
    if (size < 32 || memcmp(at, "STUBRKNN", 8)) return ERR_MODEL_INVALID;
    Model *model = calloc(1, sizeof *model);
    memcpy(&model->inputs, at + 8, 4 * 6);
    at += 32;
    model->elements = product(model->rank, model->dims);
    if (model->inputs > MAX_INPUTS || end - at < (long)(24 * model->inputs)) { free(model); return ERR_MODEL_INVALID; }
    for (uint32_t i = 0; i < model->inputs; i++, at += 24) memcpy(&model->in[i].rank, at, 24);
    for (uint32_t i = 0; i < model->inputs; i++) {
        Input *in = &model->in[i];
        in->elements = product(in->rank, in->dims);
        size_t bytes = 4ul * in->elements * model->elements;
        if ((size_t)(end - at) < bytes) { destroy(model); return ERR_MODEL_INVALID; }
        in->weights = malloc(bytes);
        memcpy(in->weights, at, bytes);
        at += bytes;
        in->values = calloc(in->elements, 4);
    }
    model->result = calloc(model->elements, 4);
    *context = (rknn_context)model;
    return 0;
}

int rknn_destroy(rknn_context context) {
    note("destroy", 0, 0, 0);
    if (context) destroy((Model *)context);
    return 0;
}

int rknn_set_core_mask(rknn_context context, int mask) {
    (void)context;
    int code = fault("set_core_mask");
    note("set_core_mask %ld code=%ld", mask, code, 0);
    return code;
}

static void describe(rknn_tensor_attr *attr, const char *name, uint32_t rank, const uint32_t *dims, int fmt) {
    uint32_t index = attr->index;
    memset(attr, 0, sizeof *attr);
    attr->index = index;
    attr->n_dims = rank;
    memcpy(attr->dims, dims, 4 * rank);
    snprintf(attr->name, sizeof attr->name, "%s%u", name, index);
    attr->n_elems = product(rank, dims);
    attr->size = attr->size_with_stride = 2 * attr->n_elems;
    attr->fmt = fmt;
    attr->type = FLOAT16;
    attr->scale = 1;
}

int rknn_query(rknn_context context, int command, void *info, uint32_t size) {
    Model *model = (Model *)context;
    if (command == QUERY_SDK_VERSION && size >= sizeof(rknn_sdk_version)) {
        strcpy(((rknn_sdk_version *)info)->api_version, "2.3.2 (429f97ae6b@2025-04-09T09:09:27)");
        strcpy(((rknn_sdk_version *)info)->drv_version, "0.9.8");
        return 0;
    }
    if (command == QUERY_IN_OUT_NUM) {
        *(rknn_input_output_num *)info = (rknn_input_output_num){model->inputs, 1};
        return 0;
    }
    rknn_tensor_attr *attr = info;
    if (command == QUERY_INPUT_ATTR && attr->index < model->inputs) {
        Input *in = &model->in[attr->index];
        describe(attr, "in", in->rank, in->dims, in->fmt);
        return 0;
    }
    if (command == QUERY_OUTPUT_ATTR && attr->index == 0) {
        describe(attr, "out", model->rank, model->dims, 3);
        return 0;
    }
    note("query %ld refused", command, 0, 0);
    return ERR_PARAM_INVALID;
}

int rknn_inputs_set(rknn_context context, uint32_t count, rknn_input inputs[]) {
    Model *model = (Model *)context;
    int code = fault("inputs_set");
    if (code) return code;
    if (count != model->inputs) return ERR_INPUT_INVALID;
    for (uint32_t i = 0; i < count; i++) {
        Input *in = &model->in[inputs[i].index];
        note("input %ld type=%ld fmt=%ld", inputs[i].index, inputs[i].type, inputs[i].fmt);
        if (inputs[i].type != FLOAT32) return ERR_INPUT_INVALID;
        if (inputs[i].size < 4 * in->elements) return ERR_PARAM_INVALID;
        memcpy(in->values, inputs[i].buf, 4 * in->elements);
    }
    return 0;
}

int rknn_run(rknn_context context, void *extend) {
    (void)extend;
    Model *model = (Model *)context;
    int code = fault("run");
    note("run code=%ld", code, 0, 0);
    if (code) return code; /* and the result of the call before stays */
    for (uint32_t o = 0; o < model->elements; o++) {
        double sum = 0;
        for (uint32_t i = 0; i < model->inputs; i++) {
            const float *weights = model->in[i].weights + (size_t)o * model->in[i].elements;
            for (uint32_t e = 0; e < model->in[i].elements; e++) sum += (double)weights[e] * model->in[i].values[e];
        }
        model->result[o] = (float)sum;
    }
    return 0;
}

int rknn_outputs_get(rknn_context context, uint32_t count, rknn_output outputs[], void *extend) {
    (void)extend;
    Model *model = (Model *)context;
    int code = fault("outputs_get");
    if (code) return code;
    if (count != 1) return ERR_PARAM_INVALID;
    note("output want_float=%ld prealloc=%ld", outputs[0].want_float, outputs[0].is_prealloc, 0);
    outputs[0].size = 4 * model->elements;
    if (!outputs[0].is_prealloc) outputs[0].buf = malloc(outputs[0].size);
    memcpy(outputs[0].buf, model->result, outputs[0].size);
    return 0;
}

int rknn_outputs_release(rknn_context context, uint32_t count, rknn_output outputs[]) {
    (void)context;
    for (uint32_t i = 0; i < count; i++)
        if (!outputs[i].is_prealloc) free(outputs[i].buf);
    return 0;
}

/* Asked for by name when the wheel starts; a library without them is too old for it. */
#define UNUSED(name) int name(void) { note(#name, 0, 0, 0); return -1; }
#ifndef OLD_LIBRARY
UNUSED(rknn_set_input_shapes)
UNUSED(rknn_set_input_shape)
#endif
UNUSED(rknn_dup_context)
UNUSED(rknn_wait)
UNUSED(rknn_set_batch_core_num)
UNUSED(rknn_create_mem)
UNUSED(rknn_create_mem2)
UNUSED(rknn_create_mem_from_fd)
UNUSED(rknn_create_mem_from_phys)
UNUSED(rknn_destroy_mem)
UNUSED(rknn_set_io_mem)
UNUSED(rknn_set_weight_mem)
UNUSED(rknn_set_internal_mem)
UNUSED(rknn_mem_sync)
