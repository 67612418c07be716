/*
 * A client that leaks: ten connections a second to 127.0.0.1, none of them
 * ever closed. Built with -O2 and without frame pointers, as distributions
 * build, it is what the recorded stacks must cope with.
 *
 *     leak PORT          calls connect() from the main thread
 *     leak PORT thread   from another one: glibc makes the call a point of
 *                        cancellation then and takes another way to it
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Below the customary limit of 1024 open files. */
#define MOST 900
/* Ends by itself if the test that started it is gone. */
#define SECONDS 120

static int port;
static int sockets[MOST];
static int opened;

/* Each uses what the other returns, so that no call is the last one of its
 * function: the compiler would make a jump of it, without a frame. */
__attribute__((noinline, noclone)) int connect_backend(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0) {
		perror("connect");
		exit(1);
	}
	return fd;
}

__attribute__((noinline, noclone)) void handle_request(void)
{
	int fd = connect_backend();

	sockets[opened] = fd;
	opened++;
}

static void *leak(void *unused)
{
	while (opened < MOST) {
		handle_request();
		usleep(100 * 1000);
	}
	pause();
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	if (argc < 2)
		return 64;
	port = atoi(argv[1]);
	alarm(SECONDS);
	if (argc > 2 && strcmp(argv[2], "thread") == 0) {
		if (pthread_create(&thread, NULL, leak, NULL) != 0)
			return 1;
		pthread_join(thread, NULL);
	} else {
		leak(NULL);
	}
	return 0;
}
