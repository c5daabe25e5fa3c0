/* One end of a Kerberos GSS-API context on MIT's libgssapi, driven line by
 * line: "tok HEX", "wrap 0|1 HEX", "unwrap HEX", "mic HEX", "verify HEX HEX",
 * "key", "peer". "-" is the empty string. Answers: "ok ..." or "err ...". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <gssapi/gssapi.h>
#include <gssapi/gssapi_ext.h>
#include <gssapi/gssapi_krb5.h>

#define LINE (1 << 20)
static char line[LINE];
static gss_ctx_id_t ctx = GSS_C_NO_CONTEXT;
static gss_name_t target = GSS_C_NO_NAME, client = GSS_C_NO_NAME;

static gss_buffer_desc unhex(char *s)
{
	gss_buffer_desc b = {0, NULL};
	if (s == NULL || strcmp(s, "-") == 0)
		return b;
	size_t n = strlen(s) / 2;
	unsigned char *p = malloc(n + 1);
	for (size_t i = 0; i < n; i++)
		sscanf(s + 2 * i, "%2hhx", p + i);
	b.length = n;
	b.value = p;
	return b;
}

static void hex(gss_buffer_desc b)
{
	if (b.length == 0)
		printf(" -");
	else
		printf(" ");
	for (size_t i = 0; i < b.length; i++)
		printf("%02x", ((unsigned char *)b.value)[i]);
}

static void fail(OM_uint32 maj, OM_uint32 min, gss_buffer_desc out)
{
	OM_uint32 m, more = 0;
	gss_buffer_desc s = {0, NULL}, t = {0, NULL};
	gss_display_status(&m, maj, GSS_C_GSS_CODE, GSS_C_NO_OID, &more, &s);
	more = 0;
	gss_display_status(&m, min, GSS_C_MECH_CODE, gss_mech_krb5, &more, &t);
	printf("err");
	hex(out);
	printf(" %.*s / %.*s", (int)s.length, (char *)s.value, (int)t.length, (char *)t.value);
}

static void step(char *arg)
{
	gss_buffer_desc in = unhex(arg), out = {0, NULL};
	OM_uint32 maj, min, flags = 0;
	if (target != GSS_C_NO_NAME)
		maj = gss_init_sec_context(&min, GSS_C_NO_CREDENTIAL, &ctx, target, gss_mech_krb5,
			GSS_C_MUTUAL_FLAG | GSS_C_SEQUENCE_FLAG | GSS_C_CONF_FLAG | GSS_C_INTEG_FLAG, 0,
			GSS_C_NO_CHANNEL_BINDINGS, &in, NULL, &out, &flags, NULL);
	else
		maj = gss_accept_sec_context(&min, &ctx, GSS_C_NO_CREDENTIAL, &in,
			GSS_C_NO_CHANNEL_BINDINGS, &client, NULL, &out, &flags, NULL, NULL);
	if (GSS_ERROR(maj)) {
		fail(maj, min, out);
		return;
	}
	printf("ok %s", maj == GSS_S_COMPLETE ? "done" : "more");
	hex(out);
}

static void answer(char *cmd, char *a, char *b)
{
	OM_uint32 maj = 0, min = 0;
	int conf = 0;
	gss_buffer_desc in = unhex(a), in2 = unhex(b), out = {0, NULL};
	gss_buffer_set_t set = GSS_C_NO_BUFFER_SET;
	if (strcmp(cmd, "wrap") == 0)
		maj = gss_wrap(&min, ctx, a[0] == '1', GSS_C_QOP_DEFAULT, &in2, &conf, &out);
	else if (strcmp(cmd, "unwrap") == 0)
		maj = gss_unwrap(&min, ctx, &in, &out, &conf, NULL);
	else if (strcmp(cmd, "mic") == 0)
		maj = gss_get_mic(&min, ctx, GSS_C_QOP_DEFAULT, &in, &out);
	else if (strcmp(cmd, "verify") == 0)
		maj = gss_verify_mic(&min, ctx, &in, &in2, NULL);
	else if (strcmp(cmd, "key") == 0) {
		maj = gss_inquire_sec_context_by_oid(&min, ctx, GSS_C_INQ_SSPI_SESSION_KEY, &set);
		if (!GSS_ERROR(maj))
			out = set->elements[0];
	} else if (strcmp(cmd, "peer") == 0)
		maj = gss_display_name(&min, client, &out, NULL);
	if (maj != GSS_S_COMPLETE) {
		fail(maj, min, out);
		return;
	}
	printf("ok %d", conf);
	hex(out);
}

int main(int argc, char **argv)
{
	if (argc > 1) {
		OM_uint32 min;
		gss_buffer_desc n = {strlen(argv[1]), argv[1]};
		gss_import_name(&min, &n, (gss_OID)GSS_KRB5_NT_PRINCIPAL_NAME, &target);
	}
	while (fgets(line, LINE, stdin)) {
		char *cmd = strtok(line, " \n"), *a = strtok(NULL, " \n"), *b = strtok(NULL, " \n");
		if (strcmp(cmd, "tok") == 0)
			step(a);
		else
			answer(cmd, a, b);
		printf("\n");
		fflush(stdout);
	}
	return 0;
}
