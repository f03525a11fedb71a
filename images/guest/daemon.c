// SPDX-License-Identifier: GPL-2.0-or-later
/* daemon.c: the program of a made-up package of the tiny images: says its
 * version, or stays and says it again at each second, so that a test sees
 * which code runs.  VERSION and FILLER (bytes of read-only data, so that two
 * versions differ in size or do not) come from the compiler's command line. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const volatile char filler[FILLER] = VERSION;

int main(int argc, char **argv)
{
    int stay = argc > 1 && strcmp(argv[1], "stay") == 0;

    do {
        printf("version %c\n", filler[0]);
        fflush(stdout);
        if (stay)
            sleep(1);
    } while (stay);
    return 0;
}
