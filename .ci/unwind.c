/* Finds the unwind tables of a static program for gcc's unwinder, which asks
   glibc's _dl_find_object(3) for them. musl has dl_iterate_phdr(3) instead. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

/* The unwinder refers to these weakly, which takes nothing out of musl's
   archive: it would call address 0 at the first panic. */
__attribute__((used)) static void *const needed[] = {
    pthread_once, pthread_key_create, pthread_getspecific, pthread_setspecific, pthread_mutex_lock, pthread_mutex_unlock,
};

static int find(struct dl_phdr_info *program, size_t size, void *result)
{
    struct dl_find_object *found = result;
    (void)size;
    for (int i = 0; i < program->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &program->dlpi_phdr[i];
        char *start = (char *)program->dlpi_addr + segment->p_vaddr;
        if (segment->p_type == PT_GNU_EH_FRAME)
            found->dlfo_eh_frame = start;
        if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X)) {
            found->dlfo_map_start = start;
            found->dlfo_map_end = start + segment->p_memsz;
        }
    }
    return 1; /* a static program is the first and the only one */
}

int _dl_find_object(void *address, struct dl_find_object *result)
{
    *result = (struct dl_find_object){0};
    dl_iterate_phdr(find, result);
    return result->dlfo_eh_frame && address >= result->dlfo_map_start && address < result->dlfo_map_end ? 0 : -1;
}
