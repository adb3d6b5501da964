"""fastxent inside other libraries: their signatures and layouts, our kernels. One module a library."""
