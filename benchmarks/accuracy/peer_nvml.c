/* What peers ask NVML for beside what the fake library of the tests answers. Weak: where that one answers, it does. */
#define WEAK __attribute__((visibility("default"), weak))

enum { HOPPER = 9, DEFAULT_MODE = 0 };

WEAK int nvmlDeviceGetArchitecture(void *device, unsigned *to) { (void)device; *to = HOPPER; return 0; }
WEAK int nvmlDeviceGetComputeMode(void *device, int *to) { (void)device; *to = DEFAULT_MODE; return 0; }
WEAK int nvmlDeviceGetPowerManagementLimit(void *device, unsigned *to) { (void)device; *to = 700000; return 0; }

static int no_process(unsigned *count) { *count = 0; return 0; }

WEAK int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, void *to) {
    (void)device; (void)to;
    return no_process(count);
}

WEAK int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned *count, void *to) {
    (void)device; (void)to;
    return no_process(count);
}
