/* The module holds nothing: `library.py` calls the functions of the other files by ctypes. */

#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "kernels.h"

/* Return 1 where the kernels were compiled and the CPU has the instructions that they use. */
int ms_supported(void) {
#if KERNELS
#ifdef __x86_64__
    __builtin_cpu_init();
#endif
    return cpu_fits();
#else
    return 0;
#endif
}

/* Return the number by which `library.py` knows kernels that read its arrays. */
int ms_version(void) { return VERSION; }

#ifdef AVX2
#define NAME "kernels_avx2"
#define INIT PyInit_kernels_avx2
#else
#define NAME "kernels"
#define INIT PyInit_kernels
#endif

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, NAME, 0, -1, 0, 0, 0, 0, 0};

PyMODINIT_FUNC INIT(void) { return PyModule_Create(&module); }
