// Chunks of 100 rows [n, n + 0.5, n + 0.25]: through a FileChannel, and, in Java's own byte order,
// through a DataOutputStream.
import java.io.*;
import java.nio.*;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;

public class Chunks {
    static final double[] PARTS = {0.0, 0.5, 0.25};

    static byte[] header(String descr) {
        String text = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (100, 3), }";
        ByteBuffer bytes = ByteBuffer.allocate(128).order(ByteOrder.LITTLE_ENDIAN);
        bytes.put((byte) 0x93).put("NUMPY\1\0".getBytes(StandardCharsets.ISO_8859_1));
        bytes.putShort((short) 118).put(String.format("%-117s\n", text).getBytes(StandardCharsets.US_ASCII));
        return bytes.array();
    }

    public static void main(String[] arguments) throws IOException {
        Path dataset = Paths.get(arguments[0]);
        try (FileChannel file = FileChannel.open(dataset.resolve("channel.npy"),
                StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE)) {
            file.write(ByteBuffer.wrap(header("<f8")));
            ByteBuffer rows = ByteBuffer.allocate(2400).order(ByteOrder.LITTLE_ENDIAN);
            for (int i = 0; i < 100; i++)
                for (double part : PARTS)
                    rows.putDouble(i + part);
            rows.flip();
            while (rows.hasRemaining())
                file.write(rows);
        }
        try (DataOutputStream file = new DataOutputStream(new BufferedOutputStream(
                new FileOutputStream(dataset.resolve("stream.npy").toFile()), 1000))) {
            file.write(header(">f8"));
            for (int i = 100; i < 200; i++)
                for (double part : PARTS)
                    file.writeDouble(i + part);
        }
    }
}
