/* A stand-in for libnvidia-ml.so.1, for tests: the real pynvml binding runs on top of it.
 *
 * It is told what to be by lines of text, read from the file that FAKE_NVML_CONFIG names when it is loaded,
 * or given one by one to fake_nvml_command(). Times are seconds of the fake's clock, powers watts.
 *
 *   gpu UUID NAME...              one more GPU; later lines name it by its index, in this order
 *   mig GPU UUID                  one more MIG instance of that GPU
 *   power GPU T W                 from T on it draws W (piecewise constant; T must not fall)
 *   wave GPU W PERIOD DUTY PHASE  W more during the first DUTY of every PERIOD, delayed by PHASE
 *   parttime GPU SECONDS          the counter sees only the first SECONDS of each update and takes them for all of it
 *   gain GPU FACTOR               what its counter and its powers say of a true joule and watt
 *   update GPU SECONDS            the counter and the instantaneous power move only this often (default 0.1)
 *   window GPU SECONDS            averaging window of the average power (default 1)
 *   offset GPU JOULES             what the counter says at time 0
 *   reset GPU T                   the counter starts again from 0 at T
 *   leap GPU T JOULES             the counter shows so much more from T on, as after a suspend
 *   set GPU KEY VALUE             utilization memory temperature clock limit max_limit reasons
 *   error CALL CODE [GPU [AFTER [TIMES]]]   CALL returns CODE; GPU -1 is any; after so many calls; so often
 *   clear CALL                    forget the errors of CALL
 *   hang CALL SECONDS [GPU [TIMES]]   CALL sleeps first; GPU -1 is any; so often
 *   cost SECONDS                  every call keeps the processor busy for so long, as a driver's ioctl does
 *   when PATH LINE                obey LINE at the first call after the file was made
 *   shift CLOCK SECONDS           set a clock of this process forward (0 realtime, 7 boottime: as a suspend does); only
 *                                 where clock_shim.c is preloaded
 *   slow CALL SECONDS             CALL takes so long on the fake's clock: a virtual one is moved on
 *   fieldtype FIELD TYPE          the valueType of that field (default 1, unsigned int)
 *   fieldraw FIELD VALUE [TIMES]  its raw value, whatever the power is; "nan" for type 0 (double); so often
 *   module GPU W                  it sits on a module with a processor, which draws W more: the module scope of the
 *                                 power fields answers, and the energy counter is the module's
 *   gpm GPU METRIC T VALUE        the GPU has performance monitors (GPM); from T on METRIC has this mean VALUE
 *   process GPU PID BYTES         a process computes on it; -1 bytes: not available
 *   exit GPU PID                  that process is gone
 *   unload CODE                   the driver is unloaded: every call of sessions and handles from before gives CODE,
 *                                 and so does nvmlInit
 *   load                          it is back: NVML must be shut down and started, handles looked up, counters are at 0
 *   clock virtual|real            a clock that fake_nvml_set_time moves, or CLOCK_MONOTONIC from load on
 *
 * CALL is the name of an NVML function, field:<id> for one field's nvmlReturn (field:<id>:<scope> in scopes other than
 * 0), or gpm:<id> for that of one metric.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_GPUS 16
#define MAX_MIGS 8
#define MAX_SEGMENTS 16384
#define MAX_RULES 128
#define MAX_LATERS 16
#define EXPORT __attribute__((visibility("default")))

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SMALL = 7 };
enum { TOTAL_ENERGY = 83, POWER_AVERAGE = 185, POWER_INSTANT = 186, SCOPE_MODULE = 1 };
enum { MAX_GPM_STEPS = 64, MAX_PROCESSES = 16, MAX_SAMPLES = 64 };

typedef struct { unsigned metric; double start, value; } GpmStep;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; } Process;

typedef struct Device {
    char uuid[96], name[96];
    struct Device *parent; /* of a MIG instance */
    struct Device *migs[MAX_MIGS];
    int index, num_migs, num_segments, has_reset;
    double wave_w, wave_period, wave_duty, wave_phase;
    double update, window, offset, reset, seen, gain;
    double seen_until, seen_j; /* what a part-time counter has gathered so far */
    double utilization, memory, temperature, clock, limit, max_limit, reasons;
    double module_w, leap, leap_j;
    GpmStep gpm[MAX_GPM_STEPS];
    Process processes[MAX_PROCESSES];
    int num_gpm, num_processes, found_in; /* the driver's load in which the handle was last looked up */
} Device;

typedef struct { char call[64]; int code, gpu, after, times; double hang, slow; } Rule;
typedef struct { char call[64]; long count; } Count;
typedef struct { char path[160], line[160]; } Later;
typedef struct { unsigned field; int type; int has_raw, times; unsigned long long raw; } FieldRule; /* has_raw 2: NaN */
typedef struct { const Device *device; double time; int in_use; } Sample;

static Device gpus[MAX_GPUS], mig_devices[MAX_GPUS * MAX_MIGS];
static struct { double start, watts, joules; } segments[MAX_GPUS][MAX_SEGMENTS]; /* joules: up to its start */
static int num_gpus, num_mig_devices, refcount, is_virtual;
static double virtual_now, real_start;
static Rule rules[MAX_RULES];
static Count counts[64];
static FieldRule field_rules[16];
static int num_rules, num_counts, num_field_rules;
static Later laters[MAX_LATERS];
static int num_laters, done_laters;
static double call_cost;
static Sample samples[MAX_SAMPLES];
static int misused_samples;                      /* freed ones that were written to, read or freed again */
static int loads = 1, is_unloaded, unload_code, started_in; /* of the driver, and in which load NVML was started */

static double monotonic(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void) { return is_virtual ? virtual_now : monotonic() - real_start; }

/* ---- the power trace and its exact integral ---- */

static double wave_integral(const Device *d, double t) { /* joules of the square wave in [phase, t] */
    if (d->wave_period <= 0 || t <= d->wave_phase) return 0;
    double high = d->wave_duty * d->wave_period, whole = floor((t - d->wave_phase) / d->wave_period);
    double rest = (t - d->wave_phase) - whole * d->wave_period;
    return d->wave_w * (whole * high + (rest < high ? rest : high));
}

static int segment_at(const Device *d, double t) { /* the last one that starts by t, or -1 */
    int low = -1, high = d->num_segments;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (segments[d->index][middle].start <= t) low = middle; else high = middle;
    }
    return low;
}

static double integral(const Device *d, double t) { /* joules since time 0 */
    int i = segment_at(d, t);
    if (i < 0) return wave_integral(d, t);
    return wave_integral(d, t) + segments[d->index][i].joules +
           segments[d->index][i].watts * (t - segments[d->index][i].start);
}

static int add_segment(Device *d, double start, double watts) {
    if (d->num_segments == MAX_SEGMENTS) return -1;
    double joules = integral(d, start) - wave_integral(d, start);
    segments[d->index][d->num_segments].start = start;
    segments[d->index][d->num_segments].watts = watts;
    segments[d->index][d->num_segments++].joules = joules;
    return 0;
}

static double power_at(const Device *d, double t) {
    int i = segment_at(d, t);
    double watts = i < 0 ? 0 : segments[d->index][i].watts;
    if (d->wave_period > 0 && t >= d->wave_phase &&
        fmod(t - d->wave_phase, d->wave_period) < d->wave_duty * d->wave_period) watts += d->wave_w;
    return watts;
}

static double last_update(const Device *d) {
    double t = now();
    return d->update > 0 ? floor(t / d->update + 1e-9) * d->update : t;
}

static double counted(Device *d, double t) { /* what the counter gathered in [0, t], t being an update */
    if (d->seen <= 0 || d->update <= 0) return d->gain * integral(d, t);
    if (t < d->seen_until) d->seen_until = d->seen_j = 0;
    for (; d->seen_until < t - d->update / 2; d->seen_until += d->update)
        d->seen_j += (integral(d, d->seen_until + d->seen) - integral(d, d->seen_until)) * d->update / d->seen;
    return d->gain * d->seen_j;
}

static double energy_j(Device *d) {
    double t = last_update(d);
    double leapt = d->leap_j && t >= d->leap ? d->leap_j : 0;
    if (!d->has_reset || now() < d->reset) return d->offset + leapt + counted(d, t) + d->module_w * t;
    return t > d->reset ? counted(d, t) - counted(d, d->reset) : 0;
}

static double average_power(const Device *d) {
    double t = last_update(d), from = t > d->window ? t - d->window : 0;
    return d->gain * (t > from ? (integral(d, t) - integral(d, from)) / (t - from) : power_at(d, t));
}

/* ---- control ---- */

EXPORT void fake_nvml_reset(void) {
    memset(gpus, 0, sizeof gpus);
    memset(mig_devices, 0, sizeof mig_devices);
    num_gpus = num_mig_devices = refcount = is_virtual = num_rules = num_counts = num_field_rules = 0;
    virtual_now = 0;
    real_start = monotonic();
    memset(samples, 0, sizeof samples);
    misused_samples = is_unloaded = started_in = num_laters = done_laters = 0;
    call_cost = 0;
    loads = 1;
}

EXPORT void fake_nvml_set_time(double seconds) { virtual_now = seconds; }
EXPORT double fake_nvml_time(void) { return now(); }
EXPORT int fake_nvml_refcount(void) { return refcount; }
EXPORT double fake_nvml_joules(int gpu, double t) { return integral(&gpus[gpu], t); }

EXPORT int fake_nvml_misused_samples(void) { return misused_samples; }

EXPORT int fake_nvml_samples(void) { /* GPM buffers that were not freed */
    int alive = 0;
    for (int i = 0; i < MAX_SAMPLES; i++) alive += samples[i].in_use;
    return alive;
}

EXPORT long fake_nvml_calls(const char *call) {
    for (int i = 0; i < num_counts; i++)
        if (!strcmp(counts[i].call, call)) return counts[i].count;
    return 0;
}

static FieldRule *field_rule(unsigned field, int create) {
    for (int i = 0; i < num_field_rules; i++)
        if (field_rules[i].field == field) return &field_rules[i];
    if (!create || num_field_rules == 16) return NULL;
    field_rules[num_field_rules] = (FieldRule){.field = field, .type = field == TOTAL_ENERGY ? 3 : 1};
    return &field_rules[num_field_rules++];
}

static int add_gpu(const char *uuid, const char *name) {
    if (num_gpus == MAX_GPUS) return -1;
    Device *d = &gpus[num_gpus];
    *d = (Device){.index = num_gpus++, .update = 0.1, .window = 1, .gain = 1, .utilization = 50, .memory = 1e9,
                  .temperature = 40, .clock = 1500, .limit = 700, .max_limit = 700};
    snprintf(d->uuid, sizeof d->uuid, "%s", uuid);
    snprintf(d->name, sizeof d->name, "%s", name);
    return 0;
}

static int add_mig(Device *parent, const char *uuid) {
    if (parent->num_migs == MAX_MIGS) return -1;
    Device *d = &mig_devices[num_mig_devices++];
    *d = (Device){.index = parent->index, .parent = parent};
    snprintf(d->uuid, sizeof d->uuid, "%s", uuid);
    snprintf(d->name, sizeof d->name, "%.80s MIG 1g", parent->name);
    parent->migs[parent->num_migs++] = d;
    return 0;
}

static int add_rule(const char *call, int code, int gpu, int after, int times, double hang) {
    if (num_rules == MAX_RULES) return -1;
    Rule *r = &rules[num_rules++];
    *r = (Rule){.code = code, .gpu = gpu, .after = after, .times = times, .hang = hang};
    snprintf(r->call, sizeof r->call, "%s", call);
    return 0;
}

static int set_value(Device *d, const char *key, double value) {
    struct { const char *key; double *place; } places[] = {
        {"utilization", &d->utilization}, {"memory", &d->memory}, {"temperature", &d->temperature},
        {"clock", &d->clock}, {"limit", &d->limit}, {"max_limit", &d->max_limit}, {"reasons", &d->reasons}};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        if (!strcmp(places[i].key, key)) { *places[i].place = value; return 0; }
    return -1;
}

static int add_gpm(Device *d, unsigned metric, double start, double value) {
    if (d->num_gpm == MAX_GPM_STEPS) return -1;
    d->gpm[d->num_gpm++] = (GpmStep){.metric = metric, .start = start, .value = value};
    return 0;
}

static int add_process(Device *d, unsigned pid, long long bytes) {
    if (d->num_processes == MAX_PROCESSES) return -1;
    d->processes[d->num_processes++] = (Process){.pid = pid, .bytes = (unsigned long long)bytes};
    return 0;
}

static int end_process(Device *d, unsigned pid) {
    for (int i = 0; i < d->num_processes; i++)
        if (d->processes[i].pid == pid) { d->processes[i] = d->processes[--d->num_processes]; return 0; }
    return -1;
}

static int load_driver(void) { /* whoever started NVML before must start it again, and counters begin at 0 */
    is_unloaded = 0;
    loads++;
    for (int i = 0; i < num_gpus; i++) { gpus[i].has_reset = 1; gpus[i].reset = now(); }
    return 0;
}

static int gpu_command(const char *word, int gpu, const char *rest) {
    char text[96];
    double a, b, c, e;
    unsigned number;
    long long bytes;
    if (gpu < 0 || gpu >= num_gpus) return -1;
    Device *d = &gpus[gpu];
    if (!strcmp(word, "mig") && sscanf(rest, "%95s", text) == 1) return add_mig(d, text);
    if (!strcmp(word, "set") && sscanf(rest, "%95s %lf", text, &a) == 2) return set_value(d, text, a);
    if (!strcmp(word, "power") && sscanf(rest, "%lf %lf", &a, &b) == 2) return add_segment(d, a, b);
    if (!strcmp(word, "wave") && sscanf(rest, "%lf %lf %lf %lf", &a, &b, &c, &e) == 4) {
        d->wave_w = a; d->wave_period = b; d->wave_duty = c; d->wave_phase = e;
        return 0;
    }
    if (!strcmp(word, "leap") && sscanf(rest, "%lf %lf", &a, &b) == 2) { d->leap = a; d->leap_j = b; return 0; }
    if (!strcmp(word, "gpm") && sscanf(rest, "%u %lf %lf", &number, &a, &b) == 3) return add_gpm(d, number, a, b);
    if (!strcmp(word, "process") && sscanf(rest, "%u %lld", &number, &bytes) == 2) return add_process(d, number, bytes);
    if (!strcmp(word, "exit") && sscanf(rest, "%u", &number) == 1) return end_process(d, number);
    if (sscanf(rest, "%lf", &a) != 1) return -1;
    if (!strcmp(word, "module")) d->module_w = a;
    else if (!strcmp(word, "update")) d->update = a;
    else if (!strcmp(word, "window")) d->window = a;
    else if (!strcmp(word, "offset")) d->offset = a;
    else if (!strcmp(word, "parttime")) d->seen = a;
    else if (!strcmp(word, "gain")) d->gain = a;
    else if (!strcmp(word, "reset")) { d->has_reset = 1; d->reset = a; }
    else return -1;
    return 0;
}

static int clear_rules(const char *call) {
    for (int i = 0; i < num_rules; i++)
        if (!strcmp(rules[i].call, call)) rules[i].call[0] = 0;
    return 0;
}

EXPORT int fake_nvml_command(const char *line) { /* 0, or -1 for a line that means nothing */
    char word[16], text[96], name[96];
    int code, gpu = -1, after = 0, times = -1, used = 0;
    unsigned field;
    unsigned long long raw;
    double seconds;
    if (sscanf(line, "%15s", word) != 1 || word[0] == '#') return 0;
    if (!strcmp(word, "gpu") && sscanf(line, "%*s %95s %95[^\n]", text, name) == 2) return add_gpu(text, name);
    if (!strcmp(word, "error") &&
        sscanf(line, "%*s %63s %d %d %d %d", text, &code, &gpu, &after, &times) >= 2)
        return add_rule(text, code, gpu, after, times, 0);
    if (!strcmp(word, "hang") && sscanf(line, "%*s %63s %lf %d %d", text, &seconds, &gpu, &times) >= 2)
        return add_rule(text, OK, gpu, 0, times, seconds);
    if (!strcmp(word, "shift") && sscanf(line, "%*s %d %lf", &code, &seconds) == 2) {
        void (*shift)(int, double) = (void (*)(int, double))dlsym(RTLD_DEFAULT, "shift_clock");
        if (!shift) return -1;
        shift(code, seconds);
        return 0;
    }
    if (!strcmp(word, "cost") && sscanf(line, "%*s %lf", &call_cost) == 1) return 0;
    if (!strcmp(word, "when") && num_laters < MAX_LATERS) {
        Later *later = &laters[num_laters];
        if (sscanf(line, "%*s %159s %n", later->path, &used) < 1 || !used) return -1;
        snprintf(later->line, sizeof later->line, "%s", line + used);
        num_laters++;
        return 0;
    }
    if (!strcmp(word, "slow") && sscanf(line, "%*s %63s %lf", text, &seconds) == 2) {
        if (add_rule(text, OK, -1, 0, -1, 0)) return -1;
        rules[num_rules - 1].slow = seconds;
        return 0;
    }
    if (!strcmp(word, "unload") && sscanf(line, "%*s %d", &unload_code) == 1) { is_unloaded = 1; return 0; }
    if (!strcmp(word, "load")) return load_driver();
    if (!strcmp(word, "clear") && sscanf(line, "%*s %63s", text) == 1) return clear_rules(text);
    if (!strcmp(word, "fieldtype") && sscanf(line, "%*s %u %d", &field, &code) == 2) {
        field_rule(field, 1)->type = code;
        return 0;
    }
    if (!strcmp(word, "fieldraw") && sscanf(line, "%*s %u %95s", &field, text) == 2 && !strcmp(text, "nan")) {
        field_rule(field, 1)->has_raw = 2;
        field_rule(field, 1)->times = -1;
        return 0;
    }
    if (!strcmp(word, "fieldraw") && sscanf(line, "%*s %u %llu %d", &field, &raw, &times) >= 2) {
        field_rule(field, 1)->times = times;
        field_rule(field, 1)->has_raw = 1;
        field_rule(field, 1)->raw = raw;
        return 0;
    }
    if (!strcmp(word, "clock") && sscanf(line, "%*s %95s", text) == 1) {
        is_virtual = !strcmp(text, "virtual");
        return 0;
    }
    if (sscanf(line, "%*s %d %n", &gpu, &used) >= 1 && used) return gpu_command(word, gpu, line + used);
    return -1;
}

__attribute__((constructor)) static void configure(void) {
    const char *path = getenv("FAKE_NVML_CONFIG");
    char line[400];
    fake_nvml_reset();
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return;
    while (fgets(line, sizeof line, file))
        if (fake_nvml_command(line)) fprintf(stderr, "fake_nvml: cannot read: %s", line);
    fclose(file);
}

/* ---- every call passes here: counted, maybe hung, maybe refused ---- */

static void count_call(const char *call) {
    int i = 0;
    while (i < num_counts && strcmp(counts[i].call, call)) i++;
    if (i == 64) return;
    if (i == num_counts) { counts[i] = (Count){.count = 0}; snprintf(counts[num_counts++].call, 64, "%s", call); }
    counts[i].count++;
}

static void take(double seconds) { /* this long on the fake's clock */
    struct timespec t = {(time_t)seconds, (long)(fmod(seconds, 1) * 1e9)};
    if (is_virtual) virtual_now += seconds;
    else nanosleep(&t, NULL);
}

static double busy(void) { /* processor seconds of this thread */
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void spend(void) {
    if (call_cost <= 0) return;
    for (double until = busy() + call_cost; busy() < until;) {}
}

static void obey_laters(void) { /* in the order in which they were told; one thread at a time */
    static int taken;
    if (done_laters == num_laters || __sync_lock_test_and_set(&taken, 1)) return;
    while (done_laters < num_laters && !access(laters[done_laters].path, F_OK))
        fake_nvml_command(laters[done_laters++].line);
    __sync_lock_release(&taken);
}

static int ruling(const char *call, int gpu) {
    obey_laters();
    count_call(call);
    if (!strncmp(call, "nvml", 4)) spend();
    for (int i = 0; i < num_rules; i++) {
        Rule *r = &rules[i];
        if (strcmp(r->call, call) || (r->gpu >= 0 && r->gpu != gpu)) continue;
        if (r->hang > 0) {
            struct timespec t = {(time_t)r->hang, (long)(fmod(r->hang, 1) * 1e9)};
            if (r->times == 0) continue;
            if (r->times > 0) r->times--;
            nanosleep(&t, NULL);
            continue;
        }
        if (r->slow > 0) take(r->slow);
        if (r->after > 0) { r->after--; continue; }
        if (r->times == 0) continue;
        if (r->times > 0) r->times--;
        if (r->code) return r->code;
    }
    return OK;
}

#define ENTER(gpu) \
    do { int code_ = ruling(__func__, gpu); \
         if (code_) return code_; \
         if (!refcount) return UNINITIALIZED; \
         if (is_unloaded || started_in != loads) return unload_code; } while (0)
#define ENTER_DEVICE(d) \
    do { ENTER((d) ? (d)->index : -1); \
         if (!(d) || (d)->found_in != loads) return INVALID_ARGUMENT; } while (0)
#define NO_MIG(d) do { if ((d)->parent) return NOT_SUPPORTED; } while (0)

static int put_text(char *to, unsigned size, const char *text) {
    if (strlen(text) + 1 > size) return SMALL;
    strcpy(to, text);
    return OK;
}

static int start(const char *call) {
    int code = ruling(call, -1);
    if (!code && is_unloaded) code = unload_code;
    if (!code && !refcount++) started_in = loads;
    return code;
}

EXPORT int nvmlInit(void) { return start("nvmlInit"); }
EXPORT int nvmlInit_v2(void) { return start("nvmlInit"); }
EXPORT int nvmlInitWithFlags(unsigned flags) { (void)flags; return start("nvmlInit"); }

EXPORT int nvmlShutdown(void) {
    int code = ruling("nvmlShutdown", -1);
    if (code) return code;
    if (!refcount) return UNINITIALIZED;
    refcount--;
    return OK;
}

EXPORT const char *nvmlErrorString(int code) {
    static char text[48];
    snprintf(text, sizeof text, "fake NVML error %d", code);
    return text;
}

EXPORT int nvmlSystemGetDriverVersion(char *to, unsigned size) { ENTER(-1); return put_text(to, size, "999.99-fake"); }
EXPORT int nvmlSystemGetNVMLVersion(char *to, unsigned size) { ENTER(-1); return put_text(to, size, "13.999.99"); }

EXPORT int nvmlDeviceGetCount_v2(unsigned *count) { ENTER(-1); *count = (unsigned)num_gpus; return OK; }

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **to) {
    ENTER((int)index);
    if (index >= (unsigned)num_gpus) return INVALID_ARGUMENT;
    *to = &gpus[index];
    (*to)->found_in = loads;
    return OK;
}

EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, Device **to) {
    Device *found = NULL;
    for (int i = 0; i < num_gpus; i++) if (!strcmp(gpus[i].uuid, uuid)) found = &gpus[i];
    for (int i = 0; i < num_mig_devices; i++) if (!strcmp(mig_devices[i].uuid, uuid)) found = &mig_devices[i];
    ENTER(found ? found->index : -1);
    if (!found) return NOT_FOUND;
    *to = found;
    found->found_in = loads;
    return OK;
}

EXPORT int nvmlDeviceGetUUID(Device *d, char *to, unsigned size) { ENTER_DEVICE(d); return put_text(to, size, d->uuid); }
EXPORT int nvmlDeviceGetName(Device *d, char *to, unsigned size) { ENTER_DEVICE(d); return put_text(to, size, d->name); }
EXPORT int nvmlDeviceGetIndex(Device *d, unsigned *to) { ENTER_DEVICE(d); *to = (unsigned)d->index; return OK; }

/* ---- MIG ---- */

EXPORT int nvmlDeviceIsMigDeviceHandle(Device *d, unsigned *to) { ENTER_DEVICE(d); *to = d->parent != NULL; return OK; }

EXPORT int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *d, Device **to) {
    ENTER_DEVICE(d);
    if (!d->parent) return INVALID_ARGUMENT;
    *to = d->parent;
    (*to)->found_in = loads;
    return OK;
}

EXPORT int nvmlDeviceGetMaxMigDeviceCount(Device *d, unsigned *to) {
    ENTER_DEVICE(d);
    *to = d->num_migs ? MAX_MIGS : 0;
    return OK;
}

EXPORT int nvmlDeviceGetMigDeviceHandleByIndex(Device *d, unsigned index, Device **to) {
    ENTER_DEVICE(d);
    if (index >= (unsigned)d->num_migs) return NOT_FOUND;
    *to = d->migs[index];
    (*to)->found_in = loads;
    return OK;
}

/* ---- energy and power ---- */

EXPORT int nvmlDeviceGetTotalEnergyConsumption(Device *d, unsigned long long *mj) {
    ENTER_DEVICE(d);
    NO_MIG(d);
    *mj = (unsigned long long)(energy_j(d) * 1e3 + 1e-6);
    return OK;
}

EXPORT int nvmlDeviceGetPowerUsage(Device *d, unsigned *mw) {
    ENTER_DEVICE(d);
    NO_MIG(d);
    *mw = (unsigned)(average_power(d) * 1e3 + 0.5);
    return OK;
}

typedef union { double d; unsigned ui; unsigned long ul; unsigned long long ull; long long sll; int si; unsigned short us; } Value;
typedef struct { unsigned field, scope; long long timestamp, latency; int type, code; Value value; } Field;

static Value as_type(int type, unsigned long long raw) {
    Value v;
    memset(&v, 0xA5, sizeof v); /* reading the wrong member gives nonsense, as it does on the real library */
    if (type == 0) v.d = (double)raw;
    else if (type == 1) v.ui = (unsigned)raw;
    else if (type == 2) v.ul = (unsigned long)raw;
    else if (type == 3) v.ull = raw;
    else if (type == 4) v.sll = (long long)raw;
    else if (type == 5) v.si = (int)raw;
    else if (type == 6) v.us = (unsigned short)raw;
    return v;
}

static int field_value(Device *d, const Field *f, int *type, double *thousandths) { /* an NVML code */
    double extra = f->scope == SCOPE_MODULE ? d->module_w : 0;
    if (f->scope > SCOPE_MODULE || (f->scope == SCOPE_MODULE && d->module_w <= 0)) return NOT_SUPPORTED;
    *type = f->field == TOTAL_ENERGY ? 3 : 1;
    if (f->field == TOTAL_ENERGY) *thousandths = floor(energy_j(d) * 1e3 + 1e-6);
    else if (f->field == POWER_AVERAGE) *thousandths = floor((average_power(d) + extra) * 1e3 + 0.5);
    else if (f->field == POWER_INSTANT) *thousandths = floor((d->gain * power_at(d, last_update(d)) + extra) * 1e3 + 0.5);
    else return INVALID_ARGUMENT;
    return OK;
}

static void fill_field(Device *d, Field *f) {
    char call[32], scope[16] = "";
    double thousandths = 0;
    if (f->scope) snprintf(scope, sizeof scope, ":%u", f->scope);
    snprintf(call, sizeof call, "field:%u%s", f->field, scope);
    f->code = ruling(call, d->index);
    if (!f->code) f->code = field_value(d, f, &f->type, &thousandths);
    if (f->code) return;
    FieldRule *rule = field_rule(f->field, 0);
    if (rule) f->type = rule->type;
    int is_raw = rule && rule->has_raw && rule->times;
    if (is_raw && rule->times > 0) rule->times--;
    f->value = as_type(f->type, is_raw ? rule->raw : (unsigned long long)thousandths);
    if (is_raw && rule->has_raw == 2) f->value.d = NAN;
}

EXPORT int nvmlDeviceGetFieldValues(Device *d, int count, Field *fields) {
    ENTER_DEVICE(d);
    NO_MIG(d);
    for (int i = 0; i < count; i++) fill_field(d, &fields[i]);
    return OK;
}

/* ---- performance monitors (GPM) ---- */

typedef struct { unsigned metric; int code; double value; const char *names[3]; } Metric;
typedef struct { unsigned version, count; Sample *earlier, *later; Metric metrics[]; } MetricsGet;

EXPORT int nvmlGpmQueryDeviceSupport(Device *d, unsigned *version_and_supported) {
    ENTER_DEVICE(d);
    version_and_supported[1] = d->num_gpm > 0;
    return OK;
}

EXPORT int nvmlGpmSampleAlloc(Sample **to) {
    ENTER(-1);
    for (int i = 0; i < MAX_SAMPLES; i++)
        if (!samples[i].in_use) { samples[i] = (Sample){.in_use = 1}; *to = &samples[i]; return OK; }
    return 23; /* insufficient resources */
}

EXPORT int nvmlGpmSampleFree(Sample *sample) {
    misused_samples += !sample->in_use;
    sample->in_use = 0;
    ENTER(-1);
    return OK;
}

EXPORT int nvmlGpmSampleGet(Device *d, Sample *sample) {
    ENTER_DEVICE(d);
    NO_MIG(d);
    misused_samples += !sample->in_use;
    sample->device = d;
    sample->time = now();
    return OK;
}

static int gpm_mean(const Device *d, unsigned metric, double from, double to, double *mean) { /* an NVML code */
    double total = 0, value = 0, since = from;
    int is_known = 0;
    for (int i = 0; i < d->num_gpm; i++) {
        const GpmStep *step = &d->gpm[i];
        if (step->metric != metric) continue;
        is_known = 1;
        if (step->start >= to) break;
        if (step->start > since) { total += value * (step->start - since); since = step->start; }
        value = step->value;
    }
    *mean = to > from ? (total + value * (to - since)) / (to - from) : value;
    return is_known ? OK : NOT_SUPPORTED;
}

EXPORT int nvmlGpmMetricsGet(MetricsGet *get) {
    const Device *d = get->later->device;
    ENTER(d ? d->index : -1);
    misused_samples += !get->earlier->in_use + !get->later->in_use;
    if (get->version != 1 || !d || d != get->earlier->device) return INVALID_ARGUMENT;
    for (unsigned i = 0; i < get->count; i++) {
        char call[32];
        Metric *m = &get->metrics[i];
        snprintf(call, sizeof call, "gpm:%u", m->metric);
        m->code = ruling(call, d->index);
        if (!m->code) m->code = gpm_mean(d, m->metric, get->earlier->time, get->later->time, &m->value);
    }
    return OK;
}

/* ---- everything else ---- */

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(Device *d, unsigned *count, Process *to) {
    ENTER_DEVICE(d);
    unsigned room = *count;
    *count = (unsigned)d->num_processes;
    if (*count > room || (*count && !to)) return SMALL;
    for (unsigned i = 0; i < *count; i++) to[i] = d->processes[i];
    return OK;
}

EXPORT int nvmlDeviceGetUtilizationRates(Device *d, unsigned *gpu_and_memory) {
    ENTER_DEVICE(d);
    gpu_and_memory[0] = (unsigned)d->utilization;
    gpu_and_memory[1] = 0;
    return OK;
}

EXPORT int nvmlDeviceGetMemoryInfo(Device *d, unsigned long long *total_free_used) {
    ENTER_DEVICE(d);
    total_free_used[0] = 80000000000ull;
    total_free_used[2] = (unsigned long long)d->memory;
    total_free_used[1] = total_free_used[0] - total_free_used[2];
    return OK;
}

EXPORT int nvmlDeviceGetTemperature(Device *d, int sensor, unsigned *to) {
    (void)sensor;
    ENTER_DEVICE(d);
    *to = (unsigned)d->temperature;
    return OK;
}

EXPORT int nvmlDeviceGetClockInfo(Device *d, int kind, unsigned *mhz) {
    ENTER_DEVICE(d);
    *mhz = kind == 1 ? (unsigned)d->clock : 0; /* 1: SM */
    return OK;
}

EXPORT int nvmlDeviceGetEnforcedPowerLimit(Device *d, unsigned *mw) {
    ENTER_DEVICE(d);
    *mw = (unsigned)(d->limit * 1e3);
    return OK;
}

EXPORT int nvmlDeviceGetPowerManagementLimitConstraints(Device *d, unsigned *least, unsigned *most) {
    ENTER_DEVICE(d);
    *least = 100000;
    *most = (unsigned)(d->max_limit * 1e3);
    return OK;
}

#ifndef WITHOUT_EVENT_REASONS /* an older driver has only the Throttle name */
EXPORT int nvmlDeviceGetCurrentClocksEventReasons(Device *d, unsigned long long *mask) {
    ENTER_DEVICE(d);
    *mask = (unsigned long long)d->reasons;
    return OK;
}
#endif

#ifndef WITHOUT_THROTTLE_REASONS /* a newer one may drop it */
EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(Device *d, unsigned long long *mask) {
    ENTER_DEVICE(d);
    *mask = (unsigned long long)d->reasons;
    return OK;
}
#endif
