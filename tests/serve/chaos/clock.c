/* The clock of one process is wrong by CHAOS_SKEW_S seconds: what it says of the time of day, and of nothing else. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
	long done = syscall(SYS_clock_gettime, clock, now);
	const char *skew = getenv("CHAOS_SKEW_S");

	if (done == 0 && skew && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += atol(skew);
	return (int)done;
}
