/* A driver's library for tests: two GPUs, of which the second tells its use alone. ENDED names the file that shutting
   down makes; once there is a file LOST, the first GPU answers nothing any more. */

#include <stdio.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, GPU_IS_LOST = 15 };

struct memory { unsigned version; unsigned long long total, reserved, free, used; };
struct utilization { unsigned gpu, memory; };

static int gpus[2];

/* What the first GPU answers in everything. */
static int state(void) { return access(LOST, F_OK) == 0 ? GPU_IS_LOST : SUCCESS; }

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return SUCCESS; }
int nvmlShutdown(void)
{
    FILE *ended = fopen(ENDED, "w");
    if (ended) fclose(ended);
    return SUCCESS;
}
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned number, void **gpu)
{
    if (number > 1) return INVALID;
    *gpu = &gpus[number];
    return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(void *gpu, struct utilization *rates)
{
    rates->gpu = gpu == &gpus[0] ? 87 : 3;
    rates->memory = 41;
    return gpu == &gpus[0] ? state() : SUCCESS;
}
int nvmlDeviceGetMemoryInfo_v2(void *gpu, struct memory *memory)
{
    if (gpu != &gpus[0]) return NOT_SUPPORTED;
    memory->total = 85899345920ULL;
    memory->reserved = 1073741824ULL;
    memory->free = 21474836480ULL;
    memory->used = 63350767616ULL;
    return state();
}
int nvmlDeviceGetPowerUsage(void *gpu, unsigned *milliwatts)
{
    if (gpu != &gpus[0]) return NOT_SUPPORTED;
    *milliwatts = 612345;
    return state();
}
int nvmlDeviceGetTemperature(void *gpu, int sensor, unsigned *celsius)
{
    if (gpu != &gpus[0] || sensor != 0) return NOT_SUPPORTED;
    *celsius = 64;
    return state();
}
int nvmlDeviceGetPcieThroughput(void *gpu, int counter, unsigned *kilobytes)
{
    if (gpu != &gpus[0]) return NOT_SUPPORTED;
    /* Sent is 0, received is 1. */
    *kilobytes = counter == 1 ? 1500000 : 2500;
    return state();
}
