/* A picture's bytes to the model's floats: every byte read once, every float written once.
 *
 * Called through ctypes (pixel_kernel.py), so it includes nothing of Python's and serves every version of it.
 */
#include <stddef.h>
#include <stdint.h>

/* pixels: uint8, `rows` rows of `columns` pixels of `channels` neighbouring bytes, `stride` bytes from row to row.
 * tables: float32 (channels, 256), what each byte means in each channel.
 * planes: float32, one plane for each channel, `plane` floats from plane to plane; a plane's rows are neighbours.
 * The name's number counts changes of this signature.
 */
void inference_service_planes_1(const uint8_t *restrict pixels, ptrdiff_t stride, const float *restrict tables,
                                float *restrict planes, ptrdiff_t plane, size_t rows, size_t columns, size_t channels)
{
    for (size_t row = 0; row < rows; row++, pixels += stride, planes += columns) {
        if (channels == 3) {
            /* All three at once: the row comes into the cache once, and three look-ups do not wait for each other. */
            float *red = planes, *green = planes + plane, *blue = planes + 2 * plane;
            for (size_t x = 0; x < columns; x++) {
                const uint8_t *pixel = pixels + 3 * x;
                red[x] = tables[pixel[0]];
                green[x] = tables[256 + pixel[1]];
                blue[x] = tables[512 + pixel[2]];
            }
            continue;
        }
        for (size_t channel = 0; channel < channels; channel++)
            for (size_t x = 0; x < columns; x++)
                planes[channel * plane + x] = tables[256 * channel + pixels[channels * x + channel]];
    }
}
