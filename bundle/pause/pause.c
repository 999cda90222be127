/* The process that holds a pod's namespaces: waits, reaps orphans that the
 * pod's containers leave (it is PID 1 of a shared PID namespace), and ends on
 * SIGINT or SIGTERM. `-v` says the version and ends with 0: kubeadm's upgrade
 * runs it so, as user 999, to see whether images can be run. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef VERSION
#error "VERSION is given by the builder"
#endif
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

static void end(int signal) {
	(void)signal;
	_exit(0);
}

static void reap(int signal) {
	(void)signal;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

int main(int argc, char **argv) {
	struct sigaction action;
	int i;

	for (i = 1; i < argc; i++) {
		if (strcmp(argv[i], "-v") == 0) {
			puts("pause " TEXT(VERSION));
			return 0;
		}
	}
	memset(&action, 0, sizeof action);
	action.sa_handler = end;
	if (sigaction(SIGINT, &action, NULL) < 0 || sigaction(SIGTERM, &action, NULL) < 0)
		return 1;
	action.sa_handler = reap;
	action.sa_flags = SA_NOCLDSTOP | SA_RESTART;
	if (sigaction(SIGCHLD, &action, NULL) < 0)
		return 2;
	for (;;)
		pause();
}
