/*
 * xfrmnull: lets an IKE daemon negotiate on a kernel without ESP.
 *
 * Preloaded into the daemon, it watches what is sent on NETLINK_XFRM sockets.
 * Requests that would create, change or delete states and policies are put
 * into the log named by XFRMNULL_LOG (one line each: message type, body in hex)
 * and replaced by a request that the kernel acknowledges and that changes
 * nothing (a NEWSPDINFO without attributes). Everything else passes. The log
 * holds the keys of the daemon's associations: the test's oracle.
 *
 * The one exception is UPDSA, which completes the larval state of an ALLOCSPI:
 * that state is deleted, for left alone it would expire and take the daemon's
 * association with it.
 *
 * XFRMNULL_COUNT names a file of eight bytes; the states the daemon has put in
 * force are counted there, in host byte order, so that a benchmark can watch
 * the daemon without asking it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/xfrm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

typedef ssize_t (*sendto_fn)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
typedef ssize_t (*write_fn)(int, const void *, size_t);

static uint64_t *counter;

__attribute__((constructor)) static void open_counter(void)
{
	const char *path = getenv("XFRMNULL_COUNT");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *at;

	if (fd < 0)
		return;
	at = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (at != MAP_FAILED)
		counter = at;
}

static void count(int type)
{
	if (counter && (type == XFRM_MSG_NEWSA || type == XFRM_MSG_UPDSA))
		__atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

static int on_xfrm_socket(int fd)
{
	int domain = 0, protocol = 0;
	socklen_t n = sizeof domain;

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) != 0 || domain != AF_NETLINK)
		return 0;
	n = sizeof protocol;
	return getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &n) == 0 && protocol == NETLINK_XFRM;
}

static int changes_something(int type)
{
	switch (type) {
	case XFRM_MSG_NEWSA:
	case XFRM_MSG_UPDSA:
	case XFRM_MSG_DELSA:
	case XFRM_MSG_NEWPOLICY:
	case XFRM_MSG_UPDPOLICY:
	case XFRM_MSG_DELPOLICY:
		return 1;
	}
	return 0;
}

static void record(const struct nlmsghdr *h)
{
	const char *path = getenv("XFRMNULL_LOG");
	const unsigned char *body = NLMSG_DATA((struct nlmsghdr *)h);
	FILE *f = path ? fopen(path, "a") : NULL;

	if (!f)
		return;
	fprintf(f, "%u ", h->nlmsg_type);
	for (unsigned i = 0; i < h->nlmsg_len - NLMSG_HDRLEN; i++)
		fprintf(f, "%02x", body[i]);
	fputc('\n', f);
	fclose(f);
}

/* harmless writes the replacement of h into out and returns its length. */
static size_t harmless(const struct nlmsghdr *h, char out[64])
{
	struct nlmsghdr *r = (struct nlmsghdr *)out;

	memset(out, 0, 64);
	*r = *h;
	r->nlmsg_flags = NLM_F_REQUEST | (h->nlmsg_flags & NLM_F_ACK);
	if (h->nlmsg_type == XFRM_MSG_UPDSA) {
		const struct xfrm_usersa_info *sa = NLMSG_DATA((struct nlmsghdr *)h);
		struct xfrm_usersa_id *id = NLMSG_DATA(r);

		id->daddr = sa->id.daddr;
		id->spi = sa->id.spi;
		id->proto = sa->id.proto;
		id->family = sa->family;
		r->nlmsg_type = XFRM_MSG_DELSA;
		r->nlmsg_len = NLMSG_LENGTH(sizeof *id);
	} else {
		r->nlmsg_type = XFRM_MSG_NEWSPDINFO;
		r->nlmsg_len = NLMSG_LENGTH(sizeof(__u32));
	}
	return r->nlmsg_len;
}

/* replace records a request that would change something and writes what goes in
 * its place; 0: it passes as it is. */
static size_t replace(int fd, const void *data, size_t len, char out[64])
{
	const struct nlmsghdr *h = data;

	if (len < NLMSG_HDRLEN || !on_xfrm_socket(fd) || !changes_something(h->nlmsg_type))
		return 0;
	record(h);
	count(h->nlmsg_type);
	return harmless(h, out);
}

/* strongSwan sends its requests with sendto, libreswan with write. */
ssize_t sendto(int fd, const void *data, size_t len, int flags, const struct sockaddr *to, socklen_t tolen)
{
	static sendto_fn real;
	char out[64];
	size_t n = replace(fd, data, len, out);

	if (!real)
		real = (sendto_fn)dlsym(RTLD_NEXT, "sendto");
	if (n == 0)
		return real(fd, data, len, flags, to, tolen);
	return real(fd, out, n, flags, to, tolen) < 0 ? -1 : (ssize_t)len;
}

ssize_t write(int fd, const void *data, size_t len)
{
	static write_fn real;
	char out[64];
	size_t n = replace(fd, data, len, out);

	if (!real)
		real = (write_fn)dlsym(RTLD_NEXT, "write");
	if (n == 0)
		return real(fd, data, len);
	return real(fd, out, n) < 0 ? -1 : (ssize_t)len;
}
